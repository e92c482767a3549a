"""Edit a video: keep its structure (depth), and take its look from a prompt or a picture.

    gen1 edit clip.mp4 --model runs/demo/pipeline --prompt "a blue ball over snow" -o out.mp4

The input may be a video, a GIF, a picture or a folder of frames. All of it is edited, in windows of
as many frames as the model was trained on, which overlap and are fused at every step. A line says
what the input loses on its way to the size of training.
A video that shows source, structure and edit side by side is written beside the output.
"""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gen1_jax.commands.edit_content import add_content_arguments, check_content, content_of
from gen1_jax.commands.edit_folder import add_folder_arguments, check_folder, edit_folder
from gen1_jax.commands.edit_length import (
    add_length_arguments,
    check_length,
    part_of,
    windows_of,
)
from gen1_jax.commands.edit_like import add_like_argument, input_of, record_of
from gen1_jax.commands.edit_loras import add_lora_arguments, loras_of
from gen1_jax.commands.edit_mask import add_mask_arguments, check_mask, mask_of
from gen1_jax.commands.edit_outputs import outputs_of, write_edit, write_variations
from gen1_jax.commands.edit_progress import (
    add_progress_arguments,
    check_progress,
    preview_writer,
    reporting,
)
from gen1_jax.commands.edit_provenance import add_provenance_arguments, signing_of
from gen1_jax.commands.edit_redo import add_redo_arguments, check_redo, redo_of
from gen1_jax.commands.edit_size import add_size_arguments, check_size, size_of
from gen1_jax.commands.edit_solver import add_solver_argument
from gen1_jax.commands.edit_structure import (
    add_structure_arguments,
    check_structure,
    structure_of,
)
from gen1_jax.commands.mesh import add_device_arguments, own_mesh
from gen1_jax.commands.processes import add_processes_argument, joined
from gen1_jax.errors import UserError
from gen1_jax.files import as_path

if TYPE_CHECKING:
    from gen1_jax.editing import VideoEditor
    from gen1_jax.editing.events import Stages

HELP = "edit a video with a prompt or a picture"


def add_arguments(parser) -> None:
    parser.add_argument(
        "input", type=Path, nargs="?", help="a video, GIF, picture, or folder of frames"
    )
    add_content_arguments(parser)
    parser.add_argument(
        "--model",
        type=as_path,
        default=Path("runs/demo/pipeline"),
        help="pipeline folder (%(default)s)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("out.mp4"),
        help="an mp4, gif or webp, or a folder for frames (%(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    parser.add_argument(
        "--temporal-scale",
        type=float,
        default=1.0,
        metavar="W",
        help="consistency over time; above 1 is smoother (%(default)s)",
    )
    parser.add_argument(
        "--per-frame",
        action="store_true",
        help="edit each frame alone, as a picture, without any layer that sees other frames",
    )
    parser.add_argument(
        "--guidance-scale",
        type=float,
        metavar="W",
        help="how strictly the prompt or picture is followed (the model's own default)",
    )
    parser.add_argument("--steps", type=int, default=50, help="sampling steps (%(default)s)")
    add_solver_argument(parser)
    add_length_arguments(parser)
    add_size_arguments(parser)
    add_mask_arguments(parser)
    add_structure_arguments(parser)
    parser.add_argument(
        "--no-preview", action="store_true", help="write no side-by-side beside the output"
    )
    parser.add_argument(
        "--no-audio", action="store_true", help="leave the sound of the input out of an mp4"
    )
    add_provenance_arguments(parser)
    add_lora_arguments(parser)
    add_like_argument(parser)
    add_redo_arguments(parser)
    add_folder_arguments(parser)
    add_progress_arguments(parser)
    add_processes_argument(parser)
    add_device_arguments(parser)


def run(args) -> None:
    if args.prompts:
        check_folder(args)
    else:
        outputs = check_arguments(args)
        if args.processes > 1:
            raise UserError("--processes shares out the videos of --prompts; this is one video")
    with joined(args), reporting(args) as (listeners, say):
        import jax

        from gen1_jax.editing.events import Stages

        started, stages = time.perf_counter(), Stages(*listeners)
        editor = load_editor(args, stages)
        if args.prompts:

            def edit_one(one: argparse.Namespace) -> None:
                make_edits(one, check_arguments(one), editor, stages)

            edit_folder(args, editor, edit_one, say, jax.process_index())
            return
        written = make_edits(args, outputs, editor, stages)
        seconds = time.perf_counter() - started
        say(ended="done", outputs=list(map(str, written)))
        print(f"wrote {', '.join(map(str, written))} ({seconds:.1f} s)")


def load_editor(args, stages: "Stages") -> "VideoEditor":
    """Loads the models, for this process's own devices."""
    from gen1_jax.editing import VideoEditor
    from gen1_jax.programs import keep_programs

    keep_programs()
    mesh = own_mesh(args, one=True)
    with stages("loading", 1):
        return VideoEditor.load(args.model, dtype=args.dtype, mesh=mesh, loras=loras_of(args))


def make_edits(
    args, outputs: dict[str, Path], editor: "VideoEditor", stages: "Stages"
) -> list[Path]:
    """Edits a video and writes the results; returns the paths of what was written."""
    with stages("reading", 1):
        record = record_of(args, editor)
        size = size_of(args, editor.conditioner.vae.spatial_factor)
        video = editor.open(args.input, **part_of(args), **size)
    taken = video.taken.describe(
        frame_flags="--start, --frames, --seconds, --stride",
        size_flags="--size, --fit",
        size_is_models=args.size is None,
        keeps_sound=args.output.suffix.lower() == ".mp4" and not args.no_audio,
    )
    if taken:
        print(f"{args.input}: {taken}")
    what = "1 frame" if len(video) == 1 else f"{len(video)} frames"
    height, width = video.size
    print(f"editing {what} of {height}x{width} in {args.steps} steps …", flush=True)
    edits = editor.vary(
        video,
        stages=stages,
        on_preview=preview_writer(args, args.output),
        temporal_scale=args.temporal_scale,
        guidance_scale=args.guidance_scale,
        steps=args.steps,
        per_frame=args.per_frame,
        solver=args.solver,
        **content_of(args),
        **windows_of(args),
        **mask_of(args),
        **structure_of(args),
        **redo_of(args, video),
    )
    if args.variations == 1:
        return write_edit(args, outputs, edits[0], video, record, stages)
    return write_variations(args, outputs, edits, video, record, stages)


def check_arguments(args) -> dict[str, Path]:
    """Checks whatever can be checked before the model is loaded.

    Returns:
      The outputs, by name; see `outputs_of`.

    Raises:
      UserError: a control, a count or a path that is not accepted.
    """
    from gen1_jax.controls import Controls

    controls = (args.structure_level, args.temporal_scale, args.guidance_scale, args.steps)
    Controls(*controls, args.per_frame, args.solver).check()
    checks = (
        check_content, check_length, check_size, check_mask, check_structure, check_redo,
        check_progress, loras_of, signing_of,
    )  # fmt: skip
    for check in checks:
        check(args)
    inputs = [("INPUT", input_of(args)), ("--structure", args.structure)]
    inputs += [("--image", path) for path in args.image or []] + [("--mask", args.mask)]
    inputs = [(name, path) for name, path in inputs if path]
    for name, path in inputs:
        if not path.exists():
            raise UserError(f"{name} {path}: no such file or folder")
    return outputs_of(args, [path for _, path in inputs])
