"""What `gen1 edit` writes: the edit, its record, and pictures to look at."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen1_jax.commands.edit_content import label_of
from gen1_jax.commands.edit_like import tags_of
from gen1_jax.commands.edit_progress import events_file, steps_path
from gen1_jax.commands.edit_provenance import marked, signing_of
from gen1_jax.commands.edit_redo import splice
from gen1_jax.commands.edit_size import output_size
from gen1_jax.errors import UserError

if TYPE_CHECKING:
    from gen1_jax.editing import Edit
    from gen1_jax.editing.events import Stages
    from gen1_jax.video.footage import Footage


def outputs_of(args, inputs: Sequence[Path]) -> dict[str, Path]:
    """Returns the outputs by name, after a check that they may be written.

    "output" is always there; "structure", "preview" and "record" where they are wanted. With
    several variations there are "output 1", "record 1", … and "sheet" instead.

    Raises:
      UserError: an output exists, cannot be written, or is an input.
    """
    from gen1_jax.editing.record import record_path
    from gen1_jax.video.io import check_output
    from gen1_jax.video.maps import check_map_output

    outputs = {}
    if args.variations == 1:
        outputs["output"] = args.output
    for number in range(1, args.variations + 1) if args.variations > 1 else ():
        name = f"{args.output.stem}_{number}{args.output.suffix}"
        outputs[f"output {number}"] = args.output.with_name(name)
    if args.save_structure:
        outputs["structure"] = args.save_structure
    if not args.no_preview and args.variations == 1:
        outputs["preview"] = preview_path(args.output)
    for name, path in outputs.items():
        check = check_map_output if name == "structure" else check_output
        check(path, args.overwrite)
    files = {
        name.replace("output", "record"): record_path(path)
        for name, path in outputs.items()
        if name.startswith("output")
    }
    if args.variations > 1:
        files["sheet"] = args.output.with_suffix(".png")
    if args.preview_every is not None:
        files["steps"] = steps_path(args.output)
    events = events_file(args)
    for path in (*files.values(), *events):
        if path.is_dir() or (path.exists() and not args.overwrite):
            raise UserError(f"{path}: exists already; give another --output, or --overwrite")
    outputs |= files
    read = {path.resolve() for path in inputs}
    paths = [*outputs.values(), *events]
    written = {path.resolve() for path in paths}
    if read & written or len(written) < len(paths):
        raise UserError("input and outputs must be different files")
    return outputs


def preview_path(output: Path) -> Path:
    """Returns out_preview.mp4 for out.mp4, and FOLDER_preview.mp4 for a folder."""
    return output.with_name(f"{output.stem}_preview{output.suffix or '.mp4'}")


def write_edit(
    args,
    outputs: Mapping[str, Path],
    edit: "Edit",
    video: "Footage",
    record: Mapping[str, Any],
    stages: "Stages",
) -> list[Path]:
    """Writes an edit with all that belongs to it.

    Frames are decoded while they are written, so that memory does not grow with their number.

    Returns:
      The paths, in the order in which a user looks at them.
    """
    from gen1_jax.video import pictures
    from gen1_jax.video.io import write_video
    from gen1_jax.video.maps import write_map
    from gen1_jax.video.provenance import synthetic_tags

    streams, options = edit.streams, {"fps": video.fps, "overwrite": args.overwrite}
    _write(args, outputs["output"], edit, video, record, stages, outputs["record"])
    if "structure" in outputs:
        structure = stages.watch("writing structure", streams.structure)
        write_map(outputs["structure"], structure, **options)
    if "preview" in outputs:
        shown = "no structure" if args.no_structure else f"structure, level {args.structure_level}"
        clips = {
            "source": streams.source,
            shown: streams.structure.map(pictures.picture_structure),
            label_of(args): streams.frames,
        }
        preview = stages.watch("writing preview", pictures.stream_side_by_side(clips))
        tags = synthetic_tags(is_composite=True)
        write_video(outputs["preview"], preview, tags=tags, **options)
    return [path for name, path in outputs.items() if name != "steps" or path.exists()]


def write_variations(
    args,
    outputs: Mapping[str, Path],
    edits: Sequence["Edit"],
    video: "Footage",
    record: Mapping[str, Any],
    stages: "Stages",
) -> list[Path]:
    """Writes several edits, each as if it had been made alone, and a picture of all of them."""
    import numpy as np

    from gen1_jax.video.maps import write_map
    from gen1_jax.video.pictures import contact_sheet, save_image

    seeds = [args.seed + number for number in range(len(edits))]
    for number, (seed, edit) in enumerate(zip(seeds, edits, strict=True), start=1):
        own = dict(record) | {"flags": record["flags"] | {"seed": seed, "variations": 1}}
        places = outputs[f"output {number}"], outputs[f"record {number}"]
        _write(args, places[0], edit, video, own, stages, places[1])
    if "structure" in outputs:
        write_map(outputs["structure"], edits[0].streams.structure, video.fps, overwrite=True)
    picked = np.linspace(0, len(video) - 1, min(6, len(video))).round().astype(int).tolist()
    some = [
        np.stack([frame for index, frame in enumerate(stream) if index in picked])
        for stream in (edits[0].streams.source, *(edit.streams.frames for edit in edits))
    ]
    labels = ["source", *(f"seed {seed}" for seed in seeds)]
    rows = [{label: frames} for label, frames in zip(labels, some, strict=True)]
    save_image(outputs["sheet"], contact_sheet(rows, frames_per_clip=6))
    return list(outputs.values())


def _write(args, output, edit, video, record, stages, beside: Path) -> None:
    from gen1_jax.video.io import write_video
    from gen1_jax.video.provenance import synthetic_tags

    frames = marked(args, edit.at(output_size(args)))
    tags = {**synthetic_tags(is_composite=args.mask is not None), **tags_of(record)}
    if args.redo is not None:
        splice(args, frames, edit.sections, tags, stages)
        _write_record(beside, record, stages)
        return
    sound = None if args.no_audio or output.suffix.lower() != ".mp4" else video.sound
    write_video(
        output,
        stages.watch("decoding", frames),
        video.fps,
        overwrite=args.overwrite,
        sound=sound,
        tags=tags,
        signing=signing_of(args),
    )
    _write_record(beside, record, stages)


def _write_record(path: Path, record, stages) -> None:
    from gen1_jax.files import write_json

    seconds = {name: round(value, 3) for name, value in stages.seconds.items()}
    write_json(path, {**record, "seconds": seconds})
