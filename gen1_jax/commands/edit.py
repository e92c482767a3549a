"""Edit a video: keep its structure (depth), and take its look from a prompt or a picture.

    gen1 edit clip.mp4 --model runs/demo/pipeline --prompt "a blue ball over snow" -o out.mp4

The input may be a video, a GIF, a picture or a folder of frames. All of it is edited, in windows of
as many frames as the model was trained on, which overlap and are fused at every step. A line says
what the input loses on its way to the size of training.
A video that shows source, structure and edit side by side is written beside the output.
"""

import time
from functools import partial
from pathlib import Path

from gen1_jax.commands.edit_length import (
    add_length_arguments,
    check_length,
    part_of,
    windows_of,
)
from gen1_jax.commands.edit_loras import add_lora_arguments, loras_of
from gen1_jax.commands.edit_mask import add_mask_arguments, check_mask, mask_of
from gen1_jax.commands.edit_size import add_size_arguments, check_size, output_size, size_of
from gen1_jax.commands.mesh import add_device_arguments, make_mesh_of
from gen1_jax.errors import UserError
from gen1_jax.text import check_text, name_of

HELP = "edit a video with a prompt or a picture"


def add_arguments(parser) -> None:
    parser.add_argument("input", type=Path, help="a video, GIF, picture, or folder of frames")
    content = parser.add_mutually_exclusive_group(required=True)
    content.add_argument("--prompt", help="what the result should look like, in words")
    content.add_argument(
        "--image",
        type=Path,
        metavar="PATH",
        help="a picture whose look the result takes; its middle square counts",
    )
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
        help="an mp4, gif or webp, or a folder for frames (%(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    parser.add_argument(
        "--structure-level",
        type=int,
        default=0,
        metavar="T",
        help="how coarse the structure is: 0 keeps all of the depth, 7 nearly none (%(default)s)",
    )
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
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (%(default)s)")
    add_length_arguments(parser)
    add_size_arguments(parser)
    add_mask_arguments(parser)
    parser.add_argument(
        "--structure-map",
        type=Path,
        metavar="PATH",
        help="keep the structure of this map, not of the estimated depth: inverse depth (bright is "
        "near) or any grey map; a video, a folder of pictures (8 or 16 bits), an .npy of [n h w], "
        "or one picture for all frames",
    )
    parser.add_argument(
        "--save-structure",
        type=Path,
        metavar="PATH",
        help="also write the structure that the model saw, in grey (bright is near), for "
        "--structure-map: an .npy (exact), a folder (16-bit PNGs), an mp4, gif or webp",
    )
    parser.add_argument(
        "--no-preview", action="store_true", help="write no side-by-side beside the output"
    )
    parser.add_argument(
        "--no-audio", action="store_true", help="leave the sound of the input out of an mp4"
    )
    add_lora_arguments(parser)
    add_device_arguments(parser)


def run(args) -> None:
    from gen1_jax.editing import VideoEditor
    from gen1_jax.runtime import keep_programs
    from gen1_jax.video import pictures
    from gen1_jax.video.io import write_video
    from gen1_jax.video.maps import write_map

    outputs = check_arguments(args)
    keep_programs()
    loras = loras_of(args)
    editor = VideoEditor.load(args.model, dtype=args.dtype, mesh=make_mesh_of(args), loras=loras)
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
    started = time.perf_counter()
    what = "1 frame" if len(video) == 1 else f"{len(video)} frames"
    height, width = video.size
    print(f"editing {what} of {height}x{width} in {args.steps} steps …", flush=True)
    edit = editor.edit(
        video,
        prompt=args.prompt,
        image=args.image,
        structure_map=args.structure_map,
        seed=args.seed,
        structure_level=args.structure_level,
        temporal_scale=args.temporal_scale,
        guidance_scale=args.guidance_scale,
        steps=args.steps,
        per_frame=args.per_frame,
        **windows_of(args),
        **mask_of(args),
    )
    # Frames are decoded while they are written, so that memory does not grow with their number.
    write = partial(write_video, fps=video.fps, overwrite=args.overwrite)
    streams = edit.streams
    sound = None if args.no_audio or outputs["output"].suffix.lower() != ".mp4" else video.sound
    write(outputs["output"], edit.at(output_size(args)), sound=sound)
    if "structure" in outputs:
        write_map(outputs["structure"], streams.structure, video.fps, overwrite=args.overwrite)
    if "preview" in outputs:
        label = args.prompt or f"edit like {name_of(args.image.name)}"
        colour = partial(pictures.colour_depth, low=-1, high=1)
        clips = {
            "source": streams.source,
            f"structure, level {args.structure_level}": streams.structure.map(
                lambda each: colour(each[None])[0]
            ),
            label: streams.frames,
        }
        write(outputs["preview"], pictures.stream_side_by_side(clips))
    seconds = time.perf_counter() - started
    print(f"wrote {', '.join(map(str, outputs.values()))} ({seconds:.1f} s)")


def check_arguments(args) -> dict[str, Path]:
    """Checks whatever can be checked before the model is loaded.

    Returns:
      The outputs: "output" and, where asked for, "structure" and "preview".

    Raises:
      UserError: a control, a count or a path that is not accepted.
    """
    from gen1_jax.controls import Controls
    from gen1_jax.video.io import check_output
    from gen1_jax.video.maps import check_map_output

    controls = (args.structure_level, args.temporal_scale, args.guidance_scale, args.steps)
    Controls(*controls, args.per_frame).check()
    check_length(args)
    check_size(args)
    check_mask(args)
    loras_of(args)
    if not 0 <= args.seed < 2**32:
        raise UserError(f"--seed {args.seed}; 0 to {2**32 - 1} are accepted")
    if args.prompt is not None and not check_text(args.prompt, "--prompt").strip():
        raise UserError("--prompt is empty; say what the video should look like, or give --image")
    inputs = {
        "INPUT": args.input,
        "--image": args.image,
        "--structure-map": args.structure_map,
        "--mask": args.mask,
    }
    for name, path in inputs.items():
        if path and not path.exists():
            raise UserError(f"{name} {path}: no such file or folder")
    outputs = {"output": args.output}
    if args.save_structure:
        outputs["structure"] = args.save_structure
    if not args.no_preview:
        outputs["preview"] = preview_path(args.output)
    for name, path in outputs.items():
        check = check_map_output if name == "structure" else check_output
        check(path, args.overwrite)
    read = {path.resolve() for path in inputs.values() if path}
    written = {path.resolve() for path in outputs.values()}
    if read & written or len(written) < len(outputs):
        raise UserError("input and outputs must be different files")
    return outputs


def preview_path(output: Path) -> Path:
    """Returns out_preview.mp4 for out.mp4, and FOLDER_preview.mp4 for a folder."""
    return output.with_name(f"{output.stem}_preview{output.suffix or '.mp4'}")
