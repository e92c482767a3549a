"""Tiny captioners and language models of a few words, in transformers' own layout."""

from pathlib import Path

import torch
import transformers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from gen1_jax.evaluation.edit_prompts.writer import ask

WORDS = "a the wolf dog cat man runs stands on in grass snow woods red blue wooden".split()
_VISION = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16}
_TEXT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 21}


def _bert() -> transformers.BertTokenizer:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = {word: number for number, word in enumerate([*special, *WORDS])}
    return transformers.BertTokenizer(vocab=vocab)


def save_blip(folder: Path) -> None:
    """Writes a BLIP with random weights, as its processor and model save themselves."""
    torch.manual_seed(0)
    size = {"height": 16, "width": 16}
    config = transformers.BlipConfig(
        text_config={
            **_TEXT, "intermediate_size": 8, "projection_dim": 8, "encoder_hidden_size": 8,
            "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0,
        },
        vision_config={**_VISION, "patch_size": 8, "intermediate_size": 8, "projection_dim": 8},
        projection_dim=8,
    )  # fmt: skip
    model = transformers.BlipForConditionalGeneration(config)
    with torch.no_grad():  # so that it tells pictures apart
        for parameter in model.parameters():
            parameter.normal_(0, 0.7)
    model.save_pretrained(folder)
    pictures = transformers.BlipImageProcessor(size=size)
    transformers.BlipProcessor(pictures, _bert()).save_pretrained(folder)


def save_git(folder: Path) -> None:
    """Writes a GIT with random weights."""
    torch.manual_seed(1)
    config = transformers.GitConfig(
        vision_config={**_VISION, "patch_size": 8, "intermediate_size": 8},
        **_TEXT, intermediate_size=8, bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    transformers.GitForCausalLM(config).save_pretrained(folder)
    pictures = transformers.CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    transformers.GitProcessor(pictures, _bert()).save_pretrained(folder)


def save_llava(folder: Path) -> None:
    """Writes a LLaVA with random weights, whose processor has a chat template."""
    torch.manual_seed(0)
    names = ["<unk>", "<s>", "</s>", "<image>", "USER:", "ASSISTANT:", *WORDS]
    words = Tokenizer(
        models.WordLevel({name: number for number, name in enumerate(names)}, "<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        pad_token="</s>", additional_special_tokens=["<image>"],
    )  # fmt: skip
    text = {**_TEXT, "vocab_size": len(names), "bos_token_id": 1, "eos_token_id": 2}
    vision = {**_VISION, "num_hidden_layers": 2, "patch_size": 8, "intermediate_size": 8}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**vision),
        text_config=transformers.LlamaConfig(**text, intermediate_size=8),
        image_token_index=3, image_token_id=3, image_seq_length=4,
    )  # fmt: skip
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    pictures = transformers.CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    template = (
        "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}"
        "<image> {% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
    )
    transformers.LlavaProcessor(
        pictures, tokenizer, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=template,
    ).save_pretrained(folder)  # fmt: skip


def save_llm(folder: Path, caption: str, answers: dict[str, str]) -> None:
    """Writes a GPT-2 that was trained to give these answers about one caption.

    Args:
      folder: where to write it.
      caption: the caption that it is asked about.
      answers: kind of edit → answer.
    """
    texts = [f"{ask(caption, kind)} {answer}\n" for kind, answer in answers.items()]
    pieces = pre_tokenizers.Split(Regex(r"\n|[^\s]+"), "removed", invert=True)
    known = {piece for text in texts for piece, _ in pieces.pre_tokenize_str(text)}
    vocab = {piece: number for number, piece in enumerate(["<end>", *sorted(known)])}
    words = Tokenizer(models.WordLevel(vocab, unk_token="<end>"))
    words.pre_tokenizer = pieces
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<end>", unk_token="<end>",
    )  # fmt: skip
    torch.manual_seed(2)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=len(vocab), n_embd=32, n_layer=1, n_head=2, n_positions=256,
            bos_token_id=0, eos_token_id=0, pad_token_id=0,
            resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
        )
    )  # fmt: skip
    lessons = []
    for text, answer in zip(texts, answers.values(), strict=True):
        tokens = tokenizer(text, return_tensors="pt")["input_ids"]
        labels = tokens.clone()
        labels[:, : -len(pieces.pre_tokenize_str(f"{answer}\n"))] = -100  # the answer is learned
        lessons.append((tokens, labels))
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        for tokens, labels in lessons:
            model(input_ids=tokens, labels=labels).loss.backward()
        optimiser.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
