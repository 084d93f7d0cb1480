"""Load and abuse against a running server, with what came of it as figures: `python -m sd_demo soak`."""
