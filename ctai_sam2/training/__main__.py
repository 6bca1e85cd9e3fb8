"""Command line: train, export, number vertebrae, draw the curve."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from ctai_sam2.errors import CtaiError


def main(arguments: list[str] | None = None) -> int:
    """Run ``python -m ctai_sam2.training``.

    Parameters
    ----------
    arguments : list of str, optional
        Instead of those of the process.

    Returns
    -------
    int
        0, or 1 after an error this package raised on purpose.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        if options.command == "train":
            from ctai_sam2.training.commands import train

            train(options)
        elif options.command == "export":
            from ctai_sam2.training.commands import export

            export(options)
        elif options.command == "dense":
            from ctai_sam2.training.commands import train_dense

            train_dense(options)
        elif options.command == "dense-trust":
            from ctai_sam2.training.commands import fit_dense_trust

            fit_dense_trust(options)
        elif options.command == "dense-export":
            from ctai_sam2.training.commands import export_dense

            export_dense(options)
        elif options.command == "levels":
            from ctai_sam2.training.levels.commands import levels

            levels(options)
        elif options.command == "levels-export":
            from ctai_sam2.training.levels.export import export_levels

            export_levels(options.run, options.out)
        else:
            from ctai_sam2.training.curves import draw_curve

            draw_curve(options.log, options.out)
    except CtaiError as error:
        logging.getLogger(__name__).error("%s", error)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ctai_sam2.training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train from scratch or resume")
    train.add_argument("--out", type=Path, required=True, help="folder of the run")
    train.add_argument("--preset", default="nano", help="schedule: nano or smoke")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--bank", type=Path, help="folder that keeps the drawn phantoms (default: in --out)")
    train.add_argument("--real-cases", type=Path, help="folder of *.npz slices with reference masks")
    train.add_argument(
        "--real-series", type=Path, nargs="*", default=[], help="folders of DICOM slices, for regions"
    )
    train.add_argument("--real-volume", type=Path, nargs=2, metavar=("IMAGE", "LABELS"), help="NIfTI pair")
    train.add_argument(
        "--held-out", nargs="*", default=[], help="files and folders whose name contains this are not read"
    )
    train.add_argument("--resume", action="store_true", help="continue from the run's own checkpoint")
    train.add_argument(
        "--resume-from", type=Path, help="begin from a checkpoint of a run with the same schedule so far"
    )
    train.add_argument("--until", type=int, help="stop before this step")
    _add_machine(train)
    dense = commands.add_parser("dense", help="train the dense head, or fine-tune it leaving patients out")
    dense.add_argument(
        "--out", type=Path, required=True, help="folder of the run; resumed if it has a checkpoint"
    )
    dense.add_argument("--schedule", default="phantoms", help="phantoms, close, unlabelled, real or smoke")
    dense.add_argument("--seed", type=int, default=0)
    dense.add_argument("--bank", type=Path, help="folder that keeps the drawn phantoms (default: in --out)")
    dense.add_argument("--start-from", type=Path, help="checkpoint whose weights to begin with")
    dense.add_argument("--real-cases", type=Path, help="folder of *.npz slices with reference masks")
    dense.add_argument(
        "--unlabelled", type=Path, nargs="*", default=[], help="CT studies without masks, labelled by a model"
    )
    dense.add_argument(
        "--teacher", type=Path, help="weights that label them (default: those that come with the package)"
    )
    dense.add_argument("--held-out", nargs="*", default=[], help="as for train")
    dense.add_argument(
        "--fold",
        action="append",
        default=[],
        metavar="WORD[,WORD]",
        help="train once more without cases whose name contains a word; may be repeated",
    )
    _add_machine(dense)
    dense_export = commands.add_parser("dense-export", help="write a weights file with a dense head in it")
    dense_export.add_argument("--base", type=Path, required=True, help="weights of the prompted model")
    dense_export.add_argument("--checkpoint", type=Path, required=True, help="of the dense head's run")
    dense_export.add_argument("--out", type=Path, required=True, help="*.safetensors")
    dense_export.add_argument("--version", default="4")
    export = commands.add_parser("export", help="write EMA weights as fp16 safetensors")
    export.add_argument("--run", type=Path, required=True, help="folder of the run")
    export.add_argument(
        "--out", type=Path, required=True, help="*.safetensors; a *.json is written next to it"
    )
    export.add_argument("--name", default="sam2-ct-nano")
    export.add_argument(
        "--scores", type=Path, help="scores.json of an evaluation without calibration, to calibrate with"
    )
    export.add_argument("--version", default="1")
    levels = commands.add_parser("levels", help="train the network that finds and names vertebrae")
    levels.add_argument(
        "--out", type=Path, required=True, help="folder of the run; continues where it stopped"
    )
    levels.add_argument("--bank", type=Path, help="folder that keeps the drawn spines (default: in --out)")
    levels.add_argument("--drawn", type=int, default=1200, help="drawn spines in the bank")
    levels.add_argument("--phantoms", type=int, default=160, help="phantom slices in the bank")
    levels.add_argument("--real", type=Path, help="folder of real data with cases/ and series/")
    levels.add_argument("--real-share", type=float, default=0.5, help="share of samples from real data")
    levels.add_argument("--held-out", nargs="*", default=[], help="patients that are not read")
    levels.add_argument("--begin-from", type=Path, help="checkpoint.pt of another run")
    levels.add_argument("--steps", type=int, default=3000)
    levels.add_argument("--images", type=int, default=12, help="images per step")
    levels.add_argument("--learning-rate", type=float)
    levels.add_argument("--seed", type=int, default=1)
    levels.add_argument("--device", default="cpu", help="cpu or cuda")
    levels.add_argument("--threads", type=int, default=1, help="torch threads")
    levels.add_argument("--workers", type=int, default=1, help="processes that draw and prepare batches")
    shipped = commands.add_parser("levels-export", help="write the level network as it ships")
    shipped.add_argument("--run", type=Path, required=True, help="folder of the run")
    shipped.add_argument("--out", type=Path, required=True, help="*.safetensors; a *.json goes next to it")
    trust = commands.add_parser("dense-trust", help="fit what the dense head's evidence means for a number")
    trust.add_argument("--model", type=Path, required=True, help="weights with a dense head, for phantoms")
    trust.add_argument(
        "--cases", type=Path, required=True, help="folder of *.npz slices with reference masks"
    )
    trust.add_argument(
        "--fold",
        action="append",
        default=[],
        metavar="WORD=WEIGHTS",
        help="weights that never saw the patients whose cases hold the word; repeat for each",
    )
    trust.add_argument("--skip", action="append", default=[], metavar="WORD:STRUCTURE")
    trust.add_argument("--phantoms", type=int, default=60)
    trust.add_argument("--seed", type=int, default=0)
    trust.add_argument("--out", type=Path, required=True, help="trust.json, read by the one click")
    curve = commands.add_parser("curve", help="draw a run's scores on its training batches over the steps")
    curve.add_argument("--log", type=Path, required=True, help="log.jsonl of the run")
    curve.add_argument("--out", type=Path, required=True, help="*.png")
    return parser


def _add_machine(command: argparse.ArgumentParser) -> None:
    command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N, mps or auto")
    command.add_argument("--threads", type=int, default=0, help="torch threads (default: torch's choice)")
    command.add_argument(
        "--workers", type=int, help="processes preparing batches (default: 1, with a GPU all cores but one)"
    )


if __name__ == "__main__":
    sys.exit(main())
