"""Weights from the Hugging Face hub: what they cost, under which licence, and getting them whole or not at all."""
