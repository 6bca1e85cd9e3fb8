"""One click: prompts from anatomy, masks from the model, limits from HU."""
