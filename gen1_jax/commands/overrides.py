"""The flag `--set`, which changes keys of a config."""


def add_set_argument(parser, example: str, key: str = "KEY") -> None:
    """Adds `--set`, which may be given several times; all its values are kept, in order.

    Args:
      parser: the command's parser.
      example: an override that makes sense there.
      key: what stands before `=VALUE` in the help.
    """
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar=f"{key}=VALUE",
        help=f"change settings, e.g. {example}; may be given several times",
    )
