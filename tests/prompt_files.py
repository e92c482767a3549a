"""Small files in the form of each public layout of prompts.

Each maker takes a folder to fill, and returns what `--prompts` takes.
"""

import csv
import json
from pathlib import Path

import numpy as np
import video_files

from gen1_jax.evaluation.prompts.results import write_frames
from gen1_jax.video.io import write_video


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def put_frames(path: Path, count: int = 4, picture: str = "{:05d}.jpg", first: int = 0) -> None:
    write_frames(path, video_files.clip(count, 24, 24), 24, picture)
    if first:
        for file in sorted(path.iterdir(), reverse=True):
            file.rename(path / picture.format(int(file.stem) + first))


def loveu_csv(root: Path) -> Path:
    put_frames(root / "DAVIS_480p/480p_frames/gold-fish")
    video = root / "videvo_480p/480p_videos/swans.mp4"
    video.parent.mkdir(parents=True)
    write_video(video, video_files.clip(4, 24, 24), 24)
    rows = [
        ["Video name", "Our GT caption", "Style Change Caption", "Object Change Caption",
         "Background Change Caption", "Multiple Changes Caption"],
        ["DAVIS Videos:"] + [""] * 5,
        ["gold-fish", "Several goldfish swim in a tank.", "Goldfish, impressionist style.",
         "Several sharks swim.", "Goldfish in a pond.", "Koi fish, in a pond, in rainbow colours."],
        [""] * 6,
        ["Videvo Videos:"] + [""] * 5,
        ["swans", "Swans on a lake.", "Swans, anime.", "Ducks.", "Swans, at sea.", "Both."],
    ]  # fmt: skip
    with (root / "LOVEU-TGVE-2023_Dataset.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root / "LOVEU-TGVE-2023_Dataset.csv"


def loveu_yaml(root: Path) -> Path:
    put_frames(root / "data/loveu-tgve-2023/DAVIS_480p/480p_frames/gold-fish")
    put(
        root / "configs/loveu-tgve-2023/DAVIS_480p/gold-fish.yaml",
        """
train_data:
  video_path: ./data/loveu-tgve-2023/DAVIS_480p/480p_frames/gold-fish
  prompt: Several goldfish swim in a tank.
  num_frames: 32
validation_data:
  prompts:
    style: Several goldfish swim in a tank, impressionist style.
    object: Several sharks swim in a tank.
seed: 33
""",
    )
    return root / "configs/loveu-tgve-2023"


def fatezero(root: Path) -> Path:
    put_frames(root / "data/attribute/bear", picture="{:05d}.png")
    put(
        root / "config/attribute/bear_tiger.yaml",
        """
train_dataset:
    path: "data/attribute/bear"
    prompt: "a brown bear walking on the rock"
    offset:
        left: 0
        right: 0
validation_sample_logger_config:
    prompts: [
        # source prompt
        a brown bear walking on the rock,
        a red tiger walking on the rock,
        a yellow leopard walking on the rock,
    ]
    clip_length: "${..train_dataset.n_sample_frame}"
""",
    )
    return root / "config"


def five(root: Path) -> Path:
    put_frames(root / "data/images/0001_bus", first=1)
    mask = np.zeros((4, 24, 24), np.uint8)
    mask[:, :12] = 255
    write_frames(root / "data/bmasks/0001_bus", mask, 24, "{:05d}.jpg")
    put(
        root / "data/edit_prompt/edit1_FiVE.json",
        json.dumps(
            [
                {
                    "video_name": "0001_bus",
                    "editing_type_id": "3",
                    "save_dir": "1_a red bus",
                    "source_prompt": "A [green] bus drives.",
                    "target_prompt": "A [red] bus drives.",
                    "multiple_choice_question": "Which colour? a) green b) red",
                }
            ]
        ),
    )
    return root / "data"


def ivebench(root: Path) -> Path:
    put_frames(root / "dog_01", picture="{:05d}.png")
    (root / "ivebenchdb_mp4_short").mkdir()
    write_video(root / "ivebenchdb_mp4_short/cat.mp4", video_files.clip(4, 24, 24), 24)
    common = {"category": "Style Editing", "subcategory": "Anime", "edit_prompt": "Make it anime."}
    return put(
        root / "ivebenchdb_prompt_short.json",
        json.dumps(
            [
                {"id": 1, "src_video_name": "dog_01.mp4", "source_prompt": "A dog.",
                 "target_prompt": "A dog in anime style.", **common},
                {"id": 2, "src_video_name": "cat.mp4", "source_prompt": "A cat.",
                 "target_prompt": "A cat in anime style.", **common},
            ]
        ),
    )  # fmt: skip


def editboard(root: Path) -> Path:
    put_frames(root / "sample/bear")
    mask = np.zeros((4, 24, 24), np.uint8)
    mask[:, :, :12] = 255
    write_frames(root / "sample/bear_mask", mask, 24, "{:05d}.png")
    return put(
        root / "sample/script.csv",
        "original_video_path,edited_video_path,semantic_mask_path,source_prompt,target_prompt\n"
        "./sample/bear,./sample/bear_autumn,./sample/bear_mask,a brown bear,a bear in the autumn\n"
        "./sample/bear,./sample/bear_panda,./sample/bear_mask,a brown bear,a brown panda",
    )


def editverse(root: Path) -> Path:
    (root / "videos").mkdir(parents=True)
    write_video(root / "videos/174008.mp4", video_files.clip(4, 24, 24), 24)
    common = {"<video1> link": "https://x", "direction": "horizontal", "source_prompt": "A woman."}
    entries = {
        "0": {"<text>": "<video1> Add a crown.", "<video1>": "videos/174008.mp4",
              "target_prompt": "A woman with a crown.", "type": "add object", **common},
        "1": {"<text>": "<video1> Follow this depth.", "<video1>": "depths/174008.mp4",
              "target_prompt": "A man.", "type": "depth to video", **common},
    }  # fmt: skip
    return put(root / "test.json", json.dumps(entries))


def v2vbench(root: Path) -> Path:
    put_frames(root / "frames/hike", picture="{:02d}.png")
    return put(
        root / "config.yaml",
        """
data:
- video_id: hike
  prompt: a man with a backpack hikes
  edit:
  - prompt: a superman with a backpack hikes
  - prompt: a man with a backpack hikes, pixel art
    type: style
""",
    )


MAKERS = {
    **{"loveu-csv": loveu_csv, "loveu-yaml": loveu_yaml, "fatezero": fatezero, "five": five},
    **{"ivebench": ivebench, "editboard": editboard, "editverse": editverse, "v2vbench": v2vbench},
}
