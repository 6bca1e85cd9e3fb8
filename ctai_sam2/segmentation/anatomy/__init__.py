"""Where the body, trunk wall, psoas and vertebra are, from HU alone: the source of automatic prompts."""
