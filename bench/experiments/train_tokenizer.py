"""Trains a byte-level BPE tokenizer on a text: python train_tokenizer.py TEXT ENTRIES OUT.json (package: tokenizers)."""
import sys

from tokenizers import ByteLevelBPETokenizer

text, entries, out = sys.argv[1:]
tokenizer = ByteLevelBPETokenizer(add_prefix_space=False)
tokenizer.train([text], vocab_size=int(entries), min_frequency=2, show_progress=False)
tokenizer.save(out)
