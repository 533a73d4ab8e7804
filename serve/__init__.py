"""An HTTP server with OpenAI's API, and a page (docs/serving.md). Needs the extra ``serve``."""
