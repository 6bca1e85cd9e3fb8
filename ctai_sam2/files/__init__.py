"""Files written whole or not at all, text and JSON that others may have written, folders."""
