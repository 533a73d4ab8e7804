#!/usr/bin/env bash
# Draw a file of prompts on one sheet; draw one of them again, larger in number, from its own settings.
set -euo pipefail
printf '%s\n' "a red circle" "two blue squares" "a green star" "three yellow circles" > prompts.txt
janus-edge generate --prompts prompts.txt --grid -o sheet.png
janus-edge generate "a purple triangle" --seed 5 -o triangle.png
janus-edge generate --like triangle.png --num-images 4 -o "triangle-{n}-{seed}.png"
janus-edge ask triangle.png "what colour is the triangle?"
