#!/usr/bin/env python3
"""Loads with transformers what tests/task_parity.rs wrote into HYBRIDQ_TASKS_OUT, and compares the outputs with those of
the original.

    HYBRIDQ_TASKS_OUT=OUT HYBRIDQ_TRANSFORMERS_DIR=DIR cargo test --release --test task_parity
    .peers/bin/python tests/peers/check_tasks.py --cases DIR --exported OUT
"""
import argparse
import json
import os
import pathlib
import sys

os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
import torch
import transformers
from safetensors.torch import load_file

OUTPUTS = 1e-4


def outputs(folder: pathlib.Path, batch: dict) -> torch.Tensor:
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    # A head with a table of its own has a second bias that is not read.
    assert not set(info["missing_keys"]) - {"cls.predictions.bias", "final_logits_bias"} and not info["unexpected_keys"], f"{folder}: {info}"
    tokens = batch["tokens"].long()
    if name.startswith("Bart"):
        source = batch["source"].long()
        mask = (torch.arange(source.shape[1]) < batch["lengths"][:, None]).long()
        with torch.no_grad():
            return model.eval()(input_ids=source, attention_mask=mask, decoder_input_ids=tokens).logits[:, -1]
    mask = (torch.arange(tokens.shape[1]) < batch["lengths"][:, None]).long()
    with torch.no_grad():
        found = model.eval()(input_ids=tokens, attention_mask=mask, token_type_ids=batch["token_types"].long())
    if name == "BertModel":
        return torch.cat([found.last_hidden_state.flatten(), found.pooler_output.flatten()])
    return torch.stack([found.start_logits, found.end_logits], dim=-1) if name.endswith("Answering") else found.logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=pathlib.Path, required=True)
    parser.add_argument("--exported", type=pathlib.Path, required=True)
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    failed = []
    for case in sorted(path.parent for path in args.cases.glob("*/batch.safetensors")):
        batch = load_file(case / "batch.safetensors")
        found = outputs(args.exported / case.name, batch)
        worst = ((found - batch["outputs"]).abs().max() / batch["outputs"].abs().max()).item()
        print(f"{case.name:26} outputs {worst:.1e}")
        if not worst < OUTPUTS:
            failed.append(case.name)
    if failed:
        sys.exit(f"different: {', '.join(failed)}")


if __name__ == "__main__":
    main()
