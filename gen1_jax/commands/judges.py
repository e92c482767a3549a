"""The flags of `gen1 evaluate` that say what is measured, and by which networks."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def add_judge_arguments(parser) -> None:
    """Adds the measures, and networks that measure, each a folder on this machine."""
    parser.add_argument(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help="measure only these (all that cost little and that the clips allow)",
    )
    parser.add_argument(
        "--metric-clip",
        type=Path,
        metavar="DIR",
        help="measure by this CLIP, on which the model was not conditioned (the pipeline's own)",
    )
    for flag, what in {
        "--lpips": "LPIPS outside masks too, with the weights in this folder",
        "--pickscore": "PickScore too, with the weights in this folder",
        "--fvd": "FVD too, by the VideoMAE in this folder; needs torch",
    }.items():
        parser.add_argument(flag, type=Path, metavar="DIR", help=f"measure {what}")


def check_judges(args) -> None:
    """Checks what can be checked before anything is loaded.

    Raises:
      UserError: a name is none of a measure, or a folder is not what it should be.
    """
    from gen1_jax.evaluation.clip_judge import find_parts
    from gen1_jax.evaluation.fvd import check_folder
    from gen1_jax.evaluation.metrics.table import check_metrics

    check_metrics(args.metrics or ())
    for flag, folder in {"--metric-clip": args.metric_clip, "--pickscore": args.pickscore}.items():
        if folder:
            find_parts(folder, flag)
    if args.fvd:
        check_folder(args.fvd)


class Measures:
    """What is asked for.

    Attributes:
      names: of the measures.
    """

    def __init__(self, args):
        """Reads LPIPS, since the names of its measures follow from its weights.

        Raises:
          UserError: its folder is not what it should be, or a measure's network is not given.
        """
        from gen1_jax.evaluation.metrics.lpips import Lpips
        from gen1_jax.evaluation.metrics.table import choose_metrics

        self._args, self._lpips = args, Lpips(args.lpips) if args.lpips else None
        given = {f"lpips-{self._lpips.name}"} if self._lpips else set()
        given |= {"pickscore"} if args.pickscore else set()
        self.names: Sequence[str] = choose_metrics(args.metrics, given)

    def load_judges(self, editor):
        """Returns the networks that measure, beside those of the pipeline."""
        from gen1_jax.evaluation.judges import Judges

        pickscore = self._args.pickscore if "pickscore" in self.names else None
        return Judges(editor, self._lpips, self._args.metric_clip, pickscore)

    def load_features(self, key_of: Callable[..., Mapping[str, object]]):
        """Returns the keeper of FVD's features, or None where FVD is not asked for."""
        from gen1_jax.evaluation.fvd import KeptFeatures, VideoFeatures

        args = self._args
        return args.fvd and KeptFeatures(args.output, VideoFeatures(args.fvd), key_of)
