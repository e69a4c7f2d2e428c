"""The maps of a model that somebody trained on real text, read with the library `transformers`.

    text → its tokenizer → tokens (n,) → its layers → weights (layers, heads, n, n)

Derived in course/07_transformer. Nothing is downloaded: a model is at hand if it lies in a folder or in the Hugging
Face hub's cache. In an encoder such as BERT every token sees the whole sentence, what comes after it included.
"""

import os
from pathlib import Path

VARIABLE = "ATTN_PRETRAINED"  # a folder, or a name on the hub
USUAL = "google-bert/bert-base-multilingual-cased"  # 104 languages, English and Chinese among them


class NotAtHand(LookupError):
    """There is no pretrained model here; the message says how to get one."""


def pretrained_maps(text, model=None):
    """What each head of a pretrained model looks at.  text -> tokens (list of n), weights (layers, heads, n, n) torch

    `model` is a folder or a hub name; None takes the environment's ATTN_PRETRAINED, else multilingual BERT. Raises
    NotAtHand where the library or the model is missing. Source: Devlin et al. (2019), BERT; chapter 07.
    """
    name = str(model or os.environ.get(VARIABLE) or USUAL)
    try:
        import torch
        import transformers
    except ModuleNotFoundError as missing:
        if missing.name not in ("torch", "transformers"):
            raise
        raise NotAtHand(f"pretrained models need {missing.name}: pip install -c pins.txt {missing.name}") from missing
    quiet = transformers.utils.logging
    level, bars = quiet.get_verbosity(), quiet.is_progress_bar_enabled()
    quiet.set_verbosity_error()
    quiet.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, local_files_only=True)
        loaded = transformers.AutoModel.from_pretrained(name, local_files_only=True, attn_implementation="eager")
    except (OSError, ValueError) as problem:
        raise NotAtHand(_how_to_get(name)) from problem
    finally:
        quiet.set_verbosity(level)
        if bars:
            quiet.enable_progress_bar()
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        attentions = loaded.eval()(**inputs, output_attentions=True).attentions  # layers times (1, heads, n, n)
    return tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist()), torch.cat(attentions)


def _how_to_get(name):
    where = "the folder holds none" if Path(name).is_dir() else "it is neither a folder nor in the hub's cache"
    size = " (0.7 GB)" if name == USUAL else ""
    return (
        f"no pretrained model {name!r} at hand: {where}. Where there is a network, `hf download {name}`{size} puts it "
        f"into the cache; or set the environment variable {VARIABLE} to a folder that holds a model and its tokenizer"
    )
