import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from rlhf_operator.api.plan import PlanRewardModel, PlanScorer
from rlhf_scoring.build import build_scorers
from rlhf_scoring.encode import INPUT_FORMAT_FILE, Encoder, InputFormat, InputKind, store_input_format
from rlhf_scoring.errors import ScorerConfigError
from rlhf_scoring.reward_model import RewardModel

WORDS = [f"w{number}" for number in range(50)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<s>", "</s>"]
NUMBER = {word: at for at, word in enumerate([*SPECIAL, *WORDS])}


def word_level(**special: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel(NUMBER, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if "cls_token" in special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", NUMBER["[CLS]"]), ("[SEP]", NUMBER["[SEP]"])],
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", **special)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-encoder with random weights."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(NUMBER),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        num_labels=1,
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    word_level(cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder with two heads, random weights, and no padding token."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=len(NUMBER),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        id2label={0: "helpful", 1: "safe"},
        label2id={"helpful": 0, "safe": 1},
        initializer_range=0.5,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    word_level(bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    return folder


def load(folder: Path, dimension: str = "overall") -> RewardModel:
    return RewardModel("helpful", PlanRewardModel(name="helpful", path=str(folder), dimension=dimension))


def scores(model: RewardModel, pairs: list[tuple[str, str]]) -> Any:
    return model.judge([pair[0] for pair in pairs], [pair[1] for pair in pairs], [{}] * len(pairs))


def copy_of(folder: Path, to: Path) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


PAIRS = [("w1 w2 w3", "w4"), ("w5", "w6 w7 w8 w9 w10"), ("w1", "w1"), ("w9 w8 w7 w6 w5 w4", "w3 w2")] * 6


def test_a_cross_encoder_reads_the_pair_with_its_token_types(bert: Path) -> None:
    network = AutoModelForSequenceClassification.from_pretrained(bert)
    tokenizer = AutoTokenizer.from_pretrained(bert)
    expected = []
    for prompt, response in PAIRS:
        inputs = tokenizer(prompt, response, return_tensors="pt", return_token_type_ids=True)
        assert inputs["token_type_ids"].max() == 1
        with torch.inference_mode():
            expected.append(float(network(**inputs).logits[0, 0]))
    assert scores(load(bert), PAIRS) == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 3) for value in expected}) == 4, "the model tells the pairs apart"


def test_swapping_prompt_and_response_gives_another_score(bert: Path) -> None:
    there, back = scores(load(bert), [("w1 w2", "w3 w4"), ("w3 w4", "w1 w2")])
    assert abs(there - back) > 1e-3


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_score_does_not_depend_on_what_shares_its_batch(name: str, request: pytest.FixtureRequest) -> None:
    model = load(request.getfixturevalue(name), "overall" if name == "bert" else "helpful")
    together = scores(model, PAIRS)
    alone = [scores(model, [pair])[0] for pair in PAIRS]
    assert together == pytest.approx(alone, abs=1e-5)


def test_a_decoder_reads_one_text_and_each_dimension_has_its_head(llama: Path) -> None:
    model = load(llama, "safe")
    encoded = model.encode("w1 w2", "w3")
    assert encoded.input_ids == [NUMBER["<s>"], NUMBER["w1"], NUMBER["w2"], NUMBER["w3"], NUMBER["</s>"]]
    assert abs(scores(model, [("w1", "w2")])[0] - scores(load(llama, "helpful"), [("w1", "w2")])[0]) > 1e-3
    with pytest.raises(ScorerConfigError, match="has no head 'overall'; its heads are helpful, safe"):
        load(llama)


@pytest.mark.parametrize("kind", [InputKind.PAIR, InputKind.CONCATENATION])
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(prompt=st.integers(0, 40), response=st.integers(0, 40), length=st.integers(8, 30))
def test_the_prompt_gives_way_first_and_from_its_left(kind: InputKind, prompt: int, response: int, length: int) -> None:
    tokenizer = (
        word_level(cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]")
        if kind is InputKind.PAIR
        else word_level(bos_token="<s>", eos_token="</s>")
    )
    encoder = Encoder(tokenizer, InputFormat(kind=kind, max_length=length))
    encoded = encoder.encode(" ".join(WORDS[:prompt]), " ".join(reversed(WORDS[-response:] if response else [])))
    room = length - (3 if kind is InputKind.PAIR else 2)
    kept_response = min(response, room)
    kept_prompt = min(prompt, room - kept_response)
    assert len(encoded.input_ids) <= length
    assert (encoded.prompt_tokens_cut, encoded.response_tokens_cut) == (prompt - kept_prompt, response - kept_response)
    plain = [token for token in encoded.input_ids if token >= len(SPECIAL)]
    expected = WORDS[prompt - kept_prompt : prompt] + list(reversed(WORDS))[:kept_response]
    assert plain == [NUMBER[word] for word in expected]
    if kind is InputKind.PAIR:
        assert sum(encoded.token_type_ids) == kept_response + 1


def test_texts_beyond_the_models_positions_are_cut_not_a_crash(bert: Path) -> None:
    assert len(scores(load(bert), [("w1 " * 500, "w2 " * 500)])) == 1


def test_the_stored_input_format_is_the_one_that_is_used(llama: Path, tmp_path: Path) -> None:
    folder = copy_of(llama, tmp_path / "model")
    plain = load(folder, "safe")
    store_input_format(folder, InputFormat(kind=InputKind.CONCATENATION, max_length=16, separator=" w7 "))
    model = load(folder, "safe")
    assert NUMBER["w7"] in model.encode("w1", "w2").input_ids
    assert model.digest != plain.digest


def test_the_digest_follows_the_weights_unless_a_version_names_them(bert: Path, tmp_path: Path) -> None:
    folder = copy_of(bert, tmp_path / "model")
    assert load(folder).digest == load(bert).digest
    (folder / "notes.txt").write_text("changed")
    assert load(folder).digest != load(bert).digest
    version = "sha256:" + "3" * 64
    named = [PlanRewardModel(name="helpful", path=str(each), version=version) for each in (folder, bert)]
    assert RewardModel("s", named[0]).digest == RewardModel("s", named[1]).digest


def spoil_auto_map(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForSequenceClassification": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('code of the model was run')")


def spoil_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_auto_map, "auto_map"),
        (spoil_pickle, "can't be loaded"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"junk"), "can't be loaded"),
        (lambda folder: (folder / "config.json").unlink(), "can't be read"),
        (lambda folder: (folder / "config.json").write_text("[1"), "can't be read"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer|can't be loaded"),
        (lambda folder: (folder / INPUT_FORMAT_FILE).write_text("{}"), "is not an input format"),
        (lambda folder: (folder / INPUT_FORMAT_FILE).write_text("x" * 100_000), "is larger than"),
    ],
)
def test_a_directory_that_holds_no_usable_model_is_a_config_error(
    bert: Path, tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    folder = copy_of(bert, tmp_path / "model")
    spoil(folder)
    with pytest.raises(ScorerConfigError, match=f"(?s)scorer helpful: .*({words})"):
        load(folder)


def test_a_reward_model_is_a_scorer_of_the_plan(bert: Path) -> None:
    plan = PlanScorer.model_validate({"name": "helpful", "rewardModel": {"name": "helpful", "path": str(bert)}})
    with build_scorers([plan]) as scorers:
        found = scorers.score("helpful", ["w1"], ["w2"], [{}])
        assert scorers.digest("helpful").startswith("sha256:")
    assert isinstance(found[0], float)
