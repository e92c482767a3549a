"""Edit a video: keep its structure (depth), take its look from a prompt or a picture.

    gen1 edit clip.mp4 --model runs/demo/pipeline --prompt "a blue ball over snow" -o out.mp4

Any video, GIF, picture or folder of frames is read; a side-by-side is written beside the output.
"""

import time
from pathlib import Path

from gen1_jax.commands.mesh import add_mesh_argument, make_mesh_of
from gen1_jax.errors import UserError

HELP = "edit a video with a prompt or a picture"


def add_arguments(parser) -> None:
    parser.add_argument("input", type=Path, help="a video, GIF, picture, or folder of frames")
    content = parser.add_mutually_exclusive_group(required=True)
    content.add_argument("--prompt", help="what the result should look like, in words")
    content.add_argument("--image", type=Path, help="a picture whose look to take")
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("runs/demo/pipeline"),
        help="pipeline folder (%(default)s)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("out.mp4"),
        help="mp4, gif, webp, or a folder for frames (%(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an output that exists")
    parser.add_argument(
        "--structure-level",
        type=int,
        default=0,
        metavar="T",
        help="0 keeps all of the depth … 7 nearly nothing (%(default)s)",
    )
    parser.add_argument(
        "--temporal-scale",
        type=float,
        default=1.0,
        metavar="W",
        help="consistency over time; 0 edits each frame alone (%(default)s)",
    )
    parser.add_argument(
        "--guidance-scale",
        type=float,
        metavar="W",
        help="how strictly the content is followed (the model's own default)",
    )
    parser.add_argument("--steps", type=int, default=50, help="sampling steps (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (%(default)s)")
    parser.add_argument(
        "--frames",
        type=int,
        help="how many to edit (as many as the model was trained on, or all of a shorter clip)",
    )
    parser.add_argument("--stride", type=int, default=1, help="take every N-th frame (%(default)s)")
    parser.add_argument("--start", type=int, default=0, help="first frame (%(default)s)")
    parser.add_argument(
        "--size", metavar="HxW", help="size of the result, e.g. 64x64 (that of training)"
    )
    parser.add_argument(
        "--save-structure",
        type=Path,
        metavar="PATH",
        help="also write the depth that the model saw",
    )
    parser.add_argument(
        "--no-preview", action="store_true", help="no side-by-side beside the output"
    )
    add_mesh_argument(parser)


def run(args) -> None:
    from gen1_jax.editing import Controls, VideoEditor
    from gen1_jax.runtime import keep_programs
    from gen1_jax.video import pictures
    from gen1_jax.video.io import check_output, read_video, write_video

    # Everything that can be wrong is found out before the model is loaded.
    Controls(args.structure_level, args.temporal_scale, args.guidance_scale, args.steps).check()
    if args.frames is not None and args.frames < 1:
        raise UserError(f"--frames {args.frames}; 1 or more are accepted")
    if not 0 <= args.seed < 2**32:
        raise UserError(f"--seed {args.seed}; 0 to {2**32 - 1} are accepted")
    if args.prompt is not None and not args.prompt.strip():
        raise UserError("--prompt is empty; say what the video should look like, or give --image")
    outputs = {"output": args.output}
    if args.save_structure:
        outputs["structure"] = args.save_structure
    if not args.no_preview:
        outputs["preview"] = preview_path(args.output)
    for path in outputs.values():
        check_output(path, args.overwrite)
    inputs = {path.resolve() for path in (args.input, args.image) if path}
    if len(inputs | {path.resolve() for path in outputs.values()}) < len(inputs) + len(outputs):
        raise UserError("input and outputs must be different files")

    keep_programs()
    editor = VideoEditor.load(args.model, mesh=make_mesh_of(args))
    size = parse_size(args.size, editor.settings["size"], editor.conditioner.vae.spatial_factor)
    if args.frames is not None and args.frames > editor.unet.max_frames:
        raise UserError(
            f"--frames {args.frames}; this model takes at most {editor.unet.max_frames} at a time"
        )
    image = read_video(args.image, num_frames=1).frames[0] if args.image else None
    limit = args.frames or min(editor.settings["num_frames"], editor.unet.max_frames)
    video = read_clip(args, limit, size, wanted=args.frames is not None)
    started = time.perf_counter()
    print(f"editing {len(video)} frames of {size[0]}x{size[1]} in {args.steps} steps …", flush=True)
    edit = editor.edit(
        video.frames,
        prompt=args.prompt,
        image=image,
        seed=args.seed,
        structure_level=args.structure_level,
        temporal_scale=args.temporal_scale,
        guidance_scale=args.guidance_scale,
        num_steps=args.steps,
    )
    structure = pictures.colour_depth(edit.structure, -1, 1)
    write_video(args.output, edit.frames, video.fps, overwrite=args.overwrite)
    if args.save_structure:
        write_video(args.save_structure, structure, video.fps, overwrite=args.overwrite)
    if not args.no_preview:
        label = args.prompt or f"edit like {args.image.name}"
        panels = {
            "source": video.frames,
            f"structure, level {args.structure_level}": structure,
            label: edit.frames,
        }
        write_video(
            outputs["preview"], pictures.side_by_side(panels), video.fps, overwrite=args.overwrite
        )
    seconds = time.perf_counter() - started
    print(f"wrote {', '.join(str(p) for p in outputs.values())} ({seconds:.1f} s)")


def read_clip(args, limit: int, size: tuple[int, int], wanted: bool):
    """`limit` frames of the input, or all of a shorter one unless so many were asked for."""
    from gen1_jax.video.io import Video, read_video

    if wanted:
        return read_video(
            args.input, num_frames=limit, stride=args.stride, start=args.start, size=size
        )
    try:
        return read_video(
            args.input, num_frames=limit, stride=args.stride, start=args.start, size=size
        )
    except UserError:
        video = read_video(args.input, stride=args.stride, start=args.start, size=size)
        return Video(video.frames[:limit], video.fps, video.path)


def preview_path(output: Path) -> Path:
    """out.mp4 → out_preview.mp4; a folder → FOLDER_preview.mp4."""
    return output.with_name(f"{output.stem}_preview{output.suffix or '.mp4'}")


def parse_size(text: str | None, default: tuple[int, int], multiple: int) -> tuple[int, int]:
    """ "HxW" → (H, W)."""
    if text is None:
        return tuple(default)
    height, x, width = text.lower().partition("x")
    if not (x and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UserError(f"--size {text}: HEIGHTxWIDTH is accepted, e.g. 64x64")
    if int(height) % multiple or int(width) % multiple:
        raise UserError(f"--size {text}: multiples of {multiple} are accepted")
    return int(height), int(width)
