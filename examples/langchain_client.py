"""LangChain against a server of yours: python langchain_client.py IMAGE [URL]."""

import base64
import sys
from pathlib import Path

from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_openai import ChatOpenAI

picture = base64.b64encode(Path(sys.argv[1]).read_bytes()).decode()
url = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8000"
model = ChatOpenAI(model="tiny-things", base_url=f"{url}/v1", api_key="none", temperature=0)
chain = model | StrOutputParser()
for question in ("what is in the picture?", "how many apples are there?"):
    content = [
        {"type": "text", "text": question},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
    ]
    print(question, end=" ")
    for piece in chain.stream([HumanMessage(content)]):
        print(piece, end="", flush=True)
    print()
