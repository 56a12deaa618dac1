"""Pocket: the small Llama-architecture model that this project trains itself and ships (DESIGN 8)."""
