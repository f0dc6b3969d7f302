#!/usr/bin/env python3
"""Loads with transformers what `hybridq import` and `hybridq export` write, and compares.

For each case of export_transformers.py: import, export as f32 (and packed, where ternary), load with from_pretrained,
compare logits with those the original gave. With --model, a run or model folder made by hybridq: export it, load model
and tokenizer with transformers, and compare the greedy continuations of a few prompts token for token.

    .peers/bin/python tests/peers/check_export.py --hybridq target/release/hybridq --cases DIR [--model RUN]
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
import torch
import transformers
from safetensors.torch import load_file

LOGITS = 1e-4
PROMPTS = ["Once upon a time", "The ", "It's a dog's life; isn't it?"]
NEW_TOKENS = 24


def load(folder: pathlib.Path) -> torch.nn.Module:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def logits_difference(folder: pathlib.Path, expected: dict) -> float:
    with torch.no_grad():
        logits = load(folder)(expected["tokens"].long()[:, :-1], use_cache=False).logits
    return ((logits - expected["logits"]).abs().max() / expected["logits"].abs().max()).item()


def check_case(hybridq: str, case: pathlib.Path, work: pathlib.Path) -> float:
    imported = work / "imported"
    subprocess.run([hybridq, "import", "--from", case, "--out", imported], check=True, stdout=subprocess.DEVNULL)
    ternary = json.loads((imported / "config.json").read_text())["precision"] == "ternary"
    expected, worst = load_file(case / "expected.safetensors"), 0.0
    for source in (imported, case):
        for kind in ["f32", "packed"] if ternary else ["f32"]:
            out = work / f"{source.name}-{kind}"
            command = [hybridq, "export", "--model", source, "--format", "safetensors", "--type", kind, "--out", out]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            worst = max(worst, logits_difference(out, expected))
    return max(worst, logits_difference(imported, expected))


def check_model(hybridq: str, model: pathlib.Path, out: pathlib.Path) -> bool:
    subprocess.run([hybridq, "export", "--model", model, "--format", "safetensors", "--out", out], check=True)
    theirs, tokenizer = load(out), transformers.AutoTokenizer.from_pretrained(out)
    same = True
    for prompt in PROMPTS:
        command = [hybridq, "generate", "--model", model, "--prompt", prompt, "--temperature", "0", "--json"]
        ours = json.loads(subprocess.run(command + ["--tokens", str(NEW_TOKENS)], check=True, capture_output=True).stdout)["tokens"]
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        found = []
        with torch.no_grad():
            for _ in ours:
                found.append(theirs(ids).logits[0, -1].argmax().item())
                ids = torch.cat([ids, torch.tensor([[found[-1]]])], dim=1)
        print(f"{model}: {prompt!r}: {sum(a == b for a, b in zip(ours, found))} of {len(ours)} tokens equal")
        same = same and ours == found
    return same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hybridq", required=True)
    parser.add_argument("--cases", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, action="append", default=[])
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    failed = []
    for case in sorted(path.parent for path in args.cases.glob("*/expected.safetensors")):
        with tempfile.TemporaryDirectory() as work:
            worst = check_case(args.hybridq, case, pathlib.Path(work))
        print(f"{case.name:32} logits {worst:.1e}")
        if not worst < LOGITS:
            failed.append(case.name)
    for model in args.model:
        with tempfile.TemporaryDirectory() as work:
            if not check_model(args.hybridq, model, pathlib.Path(work) / "exported"):
                failed.append(str(model))
    if failed:
        sys.exit(f"different: {', '.join(failed)}")


if __name__ == "__main__":
    main()
