"""examples/check_evo.py agrees with scores that are right, and ends with status 1 where one is wrong."""

import json
from pathlib import Path

import check_evo
import pytest
from golden_data import GOLDEN

from modeling_dlr import StripedHyenaModelForCausalLM
from modeling_dlr.scoring import log_likelihoods
from modeling_dlr.tokenization import evo_tokenizer

PUBLISHED = str(GOLDEN / "striped_hyena" / "evo-8k")


def test_check_evo(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = StripedHyenaModelForCausalLM.from_pretrained(PUBLISHED, dtype="auto").eval()
    scores = log_likelihoods(model, evo_tokenizer(), check_evo.SEQUENCES).tolist()
    file = tmp_path / "scores.json"
    file.write_text(json.dumps(dict(zip(check_evo.SEQUENCES, scores, strict=True))))
    check_evo.main([PUBLISHED, "--expected", str(file)])
    assert "largest difference 0.0000" in capsys.readouterr().out
    file.write_text(json.dumps({check_evo.SEQUENCES[0]: scores[0] + 0.1}))
    with pytest.raises(SystemExit, match="1"):
        check_evo.main([PUBLISHED, "--expected", str(file)])


def test_without_the_official_package():
    """There is nothing to compare with, and what to do is said before anything is loaded."""
    with pytest.raises(SystemExit, match="evo-model is not installed"):
        check_evo.main(["no/model"])
