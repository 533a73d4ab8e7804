"""Draw an image, look at it, and ask about it: python draw_and_ask.py [PROMPT]."""

import sys

import janus_edge

prompt = sys.argv[1] if len(sys.argv) > 1 else "a red apple"
with janus_edge.load() as model:
    chat = model.chat()
    image = chat.draw(prompt, seed=2)
    image.save("drawn.png")
    print(f"drawn.png: {image.prompt}, seed {image.seed}")
    for question in ("what is in the picture?", "what colour is the background?"):
        print(f"{question} {model.ask(image, question)}")
