"""Label financial sentences: python predict.py "Sales rose 5 %." (or one sentence a line on stdin).

Needs onnxruntime, tokenizers and numpy. Prints label, probabilities and sentence, tab-separated.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer


class OnnxClassifier:
    def __init__(self, folder: Path, threads: int = 1):
        self.labels = json.loads((folder / "config.json").read_text("utf-8"))["labels"]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))  # cuts long sentences
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        # Without it INT8 products overflow, silently, on x86 processors that lack VNNI.
        options.add_session_config_entry("session.x64quantprecision", "1")
        self.session = ort.InferenceSession(folder / "model.onnx", options)

    def run(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        return self.session.run(["logits"], inputs)[0]

    def logits(self, sentences: list) -> np.ndarray:
        ids = [self.tokenizer.encode(s).ids if isinstance(s, str) else s for s in sentences]
        rows = [np.array([row], dtype=np.int64) for row in ids]
        return np.concatenate([self.run(row, np.ones_like(row)) for row in rows])


if __name__ == "__main__":
    classifier = OnnxClassifier(Path(__file__).parent)
    for text in sys.argv[1:] or sys.stdin.read().splitlines():
        p = np.exp(classifier.logits([text])[0].astype(float))
        print(classifier.labels[p.argmax()], *(f"{x:.4f}" for x in p / p.sum()), text, sep="\t")
