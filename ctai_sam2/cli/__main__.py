"""``python -m ctai_sam2.cli``: the command's name in earlier versions."""

from ctai_sam2.cli import main

if __name__ == "__main__":
    main()
