"""``python -m ctai_sam2``: the command where its script is not on the path."""

from ctai_sam2.cli import main

if __name__ == "__main__":
    main()
