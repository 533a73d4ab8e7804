#!/usr/bin/env bash
# Draw a file of prompts on one sheet; draw one of them again, larger in number, from its own settings.
set -euo pipefail
printf '%s\n' "a red apple" "a cat" "a birthday cake" "a guitar" > prompts.txt
janus-edge generate --prompts prompts.txt --grid -o sheet.png
janus-edge generate "a unicorn" --seed 5 -o unicorn.png
janus-edge generate --like unicorn.png --num-images 4 -o "unicorn-{n}-{seed}.png"
janus-edge ask unicorn.png "what is this?"
