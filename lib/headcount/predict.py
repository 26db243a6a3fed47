"""Label financial sentences: python predict.py "Sales rose 5 %." (or one sentence a line on stdin).
Needs onnxruntime, tokenizers and numpy. Prints label, probabilities and sentence, tab-separated."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer


class OnnxClassifier:
    def __init__(self, folder: Path, threads: int = 1):
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        # Without it INT8 products overflow, silently, on x86 processors that lack VNNI.
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            self.labels = json.loads((path := folder / "config.json").read_text("utf-8"))["labels"]
            self.tokenizer = Tokenizer.from_file(str(path := folder / "tokenizer.json"))
            self.session = ort.InferenceSession(path := folder / "model.onnx", options)
        except Exception as error:  # each library raises its own
            raise ValueError(f"{path} is missing or damaged, copy it again: {error!r}") from None

    def run(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return self.session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]

    def logits(self, sentences: list) -> np.ndarray:  # the tokenizer cuts long ones
        ids = [self.tokenizer.encode(s).ids if isinstance(s, str) else s for s in sentences]
        return np.concatenate([self.run(row := np.int64([i]), np.ones_like(row)) for i in ids])


if __name__ == "__main__":
    sys.excepthook = lambda kind, error, _: print(f"{kind.__name__}: {error}", file=sys.stderr)
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    model = OnnxClassifier(Path(__file__).parent)
    for text in sys.argv[1:] or (line.decode("utf-8", "replace") for line in sys.stdin.buffer):
        p = np.exp(model.logits([text])[0].astype(float))
        print(model.labels[p.argmax()], *(p / p.sum()).round(4), " ".join(text.split()), sep="\t")
