"""The page and the HTTP API, in Gradio. Nothing outside this package and app.py imports gradio."""

import os

# Read by gradio when it is imported; any other word leaves its start-up look-ups on.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
