"""The embedded picture-book model: its world (a seeded renderer and its language), its trainer and its weights."""
