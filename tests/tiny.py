"""Tiny random models made in the test: a chat policy of 100 thousand parameters, its adapter, and an NLI classifier."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

CHAT_TEMPLATE = (
    "{%- for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{%- endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CORPUS = [
    "What is the capital of France? Paris is the capital.",
    "Tell me a joke about a cat. The cat is on the mat.",
    "I cannot help with that request, sorry.",
    "The answer is yes, because it is safe and helpful. A. B. Yes. No.",
    "user assistant system harmless helpful honest positive negative",
]


def _tokenizer(chat=True):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    specials = ["<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tok.train_from_iterator(
        CORPUS * 50, trainers.BpeTrainer(vocab_size=512, initial_alphabet=alphabet, special_tokens=specials)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tok,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        model_max_length=512,
        padding_side="left",
        chat_template=CHAT_TEMPLATE if chat else None,
    )


@cache
def policy(chat=True, heads=4) -> Path:
    """Return a folder with a tiny Llama chat model: random weights, a real BPE tokenizer and chat template."""
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    set_seed(0)
    tok = _tokenizer(chat)
    config = LlamaConfig(
        vocab_size=len(tok),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
    )
    folder = Path(mkdtemp(prefix="udasa-tiny-"))
    LlamaForCausalLM(config).save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


@cache
def adapter(heads=4) -> Path:
    """Return a folder with a LoRA adapter for the tiny policy, of rank 4, that changes its output."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    from udasa.backends_hf import quiet

    base = policy(heads=heads)  # before the seed: making it draws numbers, and it is made once
    set_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    folder = Path(mkdtemp(prefix="udasa-tiny-adapter-"))
    with quiet():
        get_peft_model(model, config).save_pretrained(folder)
    return folder


@cache
def nli(labels: tuple[str, ...] = ("contradiction", "entailment", "neutral")) -> Path:
    """Return a folder with a tiny BERT sequence classifier whose config names `labels` in that order."""
    from transformers import BertConfig, BertForSequenceClassification, set_seed

    set_seed(0)
    tok = _tokenizer()
    config = BertConfig(
        vocab_size=len(tok),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        pad_token_id=tok.pad_token_id,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    folder = Path(mkdtemp(prefix="udasa-tiny-nli-"))
    BertForSequenceClassification(config).save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder
