"""OpenAI's client against a server of yours: python openai_client.py [URL]."""

import base64
import sys
from pathlib import Path

from openai import OpenAI

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
with OpenAI(base_url=f"{url}/v1", api_key="none") as client:
    events = client.images.generate(
        model="tiny-things",
        prompt="a red apple",
        stream=True,
        partial_images=3,
        extra_body={"seed": 7},
    )
    for event in events:
        print(event.type)
    content = event.b64_json  # the last event has the image
    Path("drawn.png").write_bytes(base64.b64decode(content))
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{content}"}}
    question = {"type": "text", "text": "what is in the picture?"}
    answer = client.chat.completions.create(
        model="tiny-things", messages=[{"role": "user", "content": [question, image]}]
    )
    print(answer.choices[0].message.content)
