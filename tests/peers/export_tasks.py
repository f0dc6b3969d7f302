#!/usr/bin/env python3
"""Writes what tests/task_parity.rs compares with: small random encoders of Hugging Face's transformers with every head, and
encoder-decoders.

Each case is a folder: config.json and the weights as transformers saves them, batch.safetensors with the inputs (`tokens`,
`token_types`, `lengths`), what is to be predicted (`targets` or `values`), `loss`, `outputs` and, for models that give
them, `attention` `[layers, sequences, heads, queries, keys]`; and `gradients/`, a model folder that holds the gradient
of the loss in place of every parameter. Encoder-decoders: `source` and `tokens`, and `greedy` `[sequences, tokens]`, what
transformers writes for each source (padded with -1).

    .peers/bin/python tests/peers/export_tasks.py --out DIR
    HYBRIDQ_TRANSFORMERS_DIR=DIR cargo test --release --test task_parity
"""
import argparse
import os
import pathlib

os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
import torch
import transformers
from safetensors.torch import save_file

from export_transformers import randomize, save_gradients

VOCABULARY, IGNORED = 61, -100
SIZES = dict(vocab_size=VOCABULARY, hidden_size=28, num_hidden_layers=3, num_attention_heads=4, intermediate_size=37,
             max_position_embeddings=41, type_vocab_size=3, hidden_dropout_prob=0.0,
             attention_probs_dropout_prob=0.0, attn_implementation="eager")


def draw(seed: int, limit: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, limit, shape, generator=torch.Generator().manual_seed(1000 + seed))


def write(folder: pathlib.Path, model: torch.nn.Module, tensors: dict) -> None:
    """Writes the folder of a model after its backward pass."""
    model.save_pretrained(folder)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "batch.safetensors")
    save_gradients(folder, {name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    print(f"{folder.name}: loss {tensors['loss'].item():.4f}, largest output {tensors['outputs'].abs().max().item():.3f}")


def bert_case(out: pathlib.Path, name: str, head: str, seed: int, sequences: int = 3, length: int = 11, **changes) -> None:
    model = getattr(transformers, "Bert" + head)(transformers.BertConfig(**SIZES | changes))
    randomize(model, seed)
    model.eval()
    # No id 0: transformers lets no gradient of padding reach the table.
    tokens, types = 1 + draw(seed, VOCABULARY - 1, sequences, length), draw(seed + 1, SIZES["type_vocab_size"], sequences, length)
    lengths = draw(seed + 2, length, sequences) + 1
    lengths[0] = length
    mask = (torch.arange(length) < lengths[:, None]).long()
    labels = model.config.num_labels
    batch, extra = dict(input_ids=tokens, token_type_ids=types, attention_mask=mask), {}
    if head in ("ForMaskedLM", "ForPreTraining", "ForTokenClassification"):
        limit = labels if head == "ForTokenClassification" else VOCABULARY
        targets = draw(seed + 3, limit, sequences, length)
        targets[(draw(seed + 4, 3, sequences, length) == 0) | (mask == 0)] = IGNORED
        extra["targets"] = targets
        if head != "ForPreTraining":
            batch["labels"] = targets
    elif head == "ForQuestionAnswering":
        targets = draw(seed + 3, length, sequences, 2)
        extra["targets"] = targets
        batch |= dict(start_positions=targets[:, 0], end_positions=targets[:, 1])
    elif head == "ForSequenceClassification" and labels == 1:
        batch["labels"] = extra["values"] = torch.randn(sequences, 1, generator=torch.Generator().manual_seed(seed))
    elif head == "ForSequenceClassification":
        batch["labels"] = extra["targets"] = draw(seed + 3, labels, sequences)
    found = model(**batch, output_attentions=True)
    if head == "Model":
        outputs, loss = torch.cat([found.last_hidden_state.flatten(), found.pooler_output.flatten()]), torch.zeros(())
    elif head == "ForPreTraining":
        # Of its two heads the one for masked tokens.
        outputs = found.prediction_logits
        loss = torch.nn.functional.cross_entropy(outputs.flatten(0, 1), extra["targets"].flatten(), ignore_index=IGNORED)
    elif head == "ForQuestionAnswering":
        outputs, loss = torch.stack([found.start_logits, found.end_logits], dim=-1), found.loss
    else:
        outputs, loss = found.logits, found.loss
    if head != "Model":
        loss.backward()
    tensors = dict(tokens=tokens.int(), token_types=types.int(), lengths=lengths.int(), loss=loss.detach().reshape(1),
                   outputs=outputs.detach(), attention=torch.stack([part.detach() for part in found.attentions]))
    tensors |= {key: value.int() if key == "targets" else value for key, value in extra.items()}
    write(out / name, model, tensors)


BART = dict(vocab_size=VOCABULARY, d_model=28, encoder_layers=2, decoder_layers=3, encoder_ffn_dim=37, decoder_ffn_dim=29,
            encoder_attention_heads=4, decoder_attention_heads=7, max_position_embeddings=41, dropout=0.0,
            attention_dropout=0.0, activation_dropout=0.0, attn_implementation="eager", pad_token_id=1, bos_token_id=0,
            eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None)
WRITTEN = 15


def bart_case(out: pathlib.Path, name: str, seed: int, sequences: int = 3, source_length: int = 13, length: int = 9, **changes) -> None:
    model = transformers.BartForConditionalGeneration(transformers.BartConfig(**BART | changes))
    randomize(model, seed)
    model.eval()
    source, tokens = [3 + draw(seed + part, VOCABULARY - 3, sequences, size) for part, size in ((0, source_length), (1, length))]
    targets = draw(seed + 2, VOCABULARY, sequences, length)
    targets[draw(seed + 3, 4, sequences, length) == 0] = IGNORED
    lengths = draw(seed + 4, source_length, sequences) + 1
    lengths[0] = source_length
    mask = (torch.arange(source_length) < lengths[:, None]).long()
    found = model(input_ids=source, attention_mask=mask, decoder_input_ids=tokens, labels=targets, use_cache=False)
    found.loss.backward()
    greedy = torch.full((sequences, WRITTEN), -1)
    for row in range(sequences):
        with torch.no_grad():
            ids = model.generate(source[row:row + 1], num_beams=1, do_sample=False, max_new_tokens=WRITTEN)[0, 1:]
        greedy[row, :len(ids)] = ids
    tensors = dict(source=source.int(), tokens=tokens.int(), lengths=lengths.int(), targets=targets.int(), greedy=greedy.int(),
                   loss=found.loss.detach().reshape(1), outputs=found.logits[:, -1].detach())
    write(out / name, model, tensors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for seed in range(3):
        bert_case(args.out, f"bert-base-{seed}", "Model", seed)
        bert_case(args.out, f"bert-masked-{seed}", "ForMaskedLM", 10 + seed)
        bert_case(args.out, f"bert-pre-training-{seed}", "ForPreTraining", 15 + seed)
        bert_case(args.out, f"bert-sequence-{seed}", "ForSequenceClassification", 20 + seed, num_labels=5)
        bert_case(args.out, f"bert-regression-{seed}", "ForSequenceClassification", 30 + seed, num_labels=1)
        bert_case(args.out, f"bert-tokens-{seed}", "ForTokenClassification", 40 + seed, num_labels=7)
        bert_case(args.out, f"bert-spans-{seed}", "ForQuestionAnswering", 50 + seed)
        bart_case(args.out, f"bart-{seed}", 70 + 10 * seed)
    bart_case(args.out, "bart-relu", 100, activation_function="relu", source_length=40, sequences=1)
    bert_case(args.out, "bert-masked-tanh-untied", "ForMaskedLM", 60, hidden_act="gelu_new", tie_word_embeddings=False)
    bert_case(args.out, "bert-sequence-relu", "ForSequenceClassification", 61, sequences=5, length=37, hidden_act="relu",
              num_attention_heads=7, num_labels=3)


if __name__ == "__main__":
    main()
