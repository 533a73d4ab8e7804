"""See an image sharpen: each preview becomes a file. python stream.py."""

import asyncio

from PIL import Image

import janus_edge
from janus_edge.runtime.events import Preview


async def main() -> None:
    """Draw, and write what comes."""
    with janus_edge.load() as model:
        async with model.draw_stream("a cat", seed=1) as stream:
            async for item in stream:
                if isinstance(item, Preview):
                    Image.fromarray(item.pixels).save(f"preview-{item.done:03}.png")
                else:
                    item.save("cat.png")
        print("cat.png")


asyncio.run(main())
