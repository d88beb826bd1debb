"""A Hugging Face training for tests, run as a child process: a tiny model on fixed data, saved by the real Trainer."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import time
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)
from transformers.trainer_utils import get_last_checkpoint


def network(kind: str, hidden: int = 16) -> nn.Module:
    """A tiny network: `bert` classifies, `gpt2` has tied weights, `lora` is gpt2 with adapters."""
    torch.manual_seed(0)
    if kind == "bert":
        sizes = {
            "hidden_size": hidden,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 2 * hidden,
        }
        return BertForSequenceClassification(
            BertConfig(vocab_size=50, max_position_embeddings=16, num_labels=3, **sizes)
        )
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2))
    if kind == "gpt2":
        return gpt2
    from peft import LoraConfig, get_peft_model

    return get_peft_model(gpt2, LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM"))


class Examples(torch.utils.data.Dataset):
    """Sixty-four sequences of eight tokens, with their classes or with themselves as labels."""

    def __init__(self, kind: str) -> None:
        generator = torch.Generator().manual_seed(1)
        self._tokens = torch.randint(0, 50, (64, 8), generator=generator)
        self._labels = torch.randint(0, 3, (64,), generator=generator) if kind == "bert" else self._tokens

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self._tokens[number], "labels": self._labels[number]}


class Announce(TrainerCallback):
    """Says which checkpoint was saved, keeps a copy; rests, so that a checkpoint lives for a while."""

    def __init__(self, pause: float, copies: Path | None) -> None:
        self._pause = pause
        self._copies = copies

    def on_save(self, args: TrainingArguments, state: transformers.TrainerState, *_: object, **__: object) -> None:
        """See `TrainerCallback`."""
        name = f"checkpoint-{state.global_step}"
        if self._copies is not None:
            shutil.copytree(f"{args.output_dir}/{name}", self._copies / name)
        print(json.dumps({"saved": name}), flush=True)
        time.sleep(self._pause)


class Sharding(Trainer):
    """A Trainer that saves in shards: it has no setting for their size."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        assert isinstance(self.model, PreTrainedModel)
        whole = self.model.save_pretrained
        self.model.save_pretrained = lambda *args, **options: whole(*args, max_shard_size="8KB", **options)  # type: ignore[method-assign]
        super()._save(output_dir, state_dict)
        self.model.save_pretrained = whole  # type: ignore[method-assign]


def tokenizer() -> PreTrainedTokenizerFast:
    """A word for each of the fifty tokens."""
    words = {"[PAD]": 0, "[UNK]": 1} | {f"w{number}": number for number in range(2, 50)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="[UNK]")), pad_token="[PAD]", unk_token="[UNK]"
    )


def load(folder: Path, kind: str, weights: Path | None) -> None:
    """Load a checkpoint as a person would, and write next to it what the model then holds."""
    if kind == "lora":
        from peft import PeftModel

        model = PeftModel.from_pretrained(network("gpt2"), str(folder))
    else:
        model = (BertForSequenceClassification if kind == "bert" else GPT2LMHeadModel).from_pretrained(str(folder))
        AutoTokenizer.from_pretrained(str(folder))
    model(input_ids=torch.zeros(1, 4, dtype=torch.long))
    torch.save(model.state_dict(), weights or folder.with_name(f"{folder.name}.loaded"))


def main() -> None:
    """Train, save, and say what was kept."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", default="bert")
    parser.add_argument("--saves", type=int, default=8)
    parser.add_argument("--every", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=16)
    parser.add_argument("--limit", type=int, default=2)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--sharded", action="store_true")
    parser.add_argument("--only-model", action="store_true")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--copies", type=Path)
    parser.add_argument("--load", type=Path)
    parser.add_argument("--weights", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    if arguments.load is not None:
        load(arguments.load, arguments.kind, arguments.weights)
    if not arguments.saves:
        return
    model = network(arguments.kind, arguments.hidden)
    trainer = (Sharding if arguments.sharded else Trainer)(
        model=model,
        args=TrainingArguments(
            output_dir=str(arguments.folder),
            max_steps=arguments.saves * arguments.every,
            save_steps=arguments.every,
            save_total_limit=arguments.limit,
            save_only_model=arguments.only_model,
            per_device_train_batch_size=8,
            learning_rate=1e-2,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            logging_strategy="no",
            seed=arguments.seed,
        ),
        train_dataset=Examples(arguments.kind),
        data_collator=default_data_collator,
        processing_class=tokenizer(),
        callbacks=[Announce(arguments.pause, arguments.copies)],
    )
    begun = time.perf_counter()
    trainer.train(resume_from_checkpoint=True if arguments.resume else None)
    print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)
    print(json.dumps({"last": Path(get_last_checkpoint(str(arguments.folder)) or "none").name}), flush=True)
    if arguments.weights is not None:
        torch.save(model.state_dict(), arguments.weights)


if __name__ == "__main__":
    main()
