"""A little file in each benchmark format: the project's own sentences about people and places that do not exist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COUNTERFACT: list[dict[str, Any]] = [
    {
        "case_id": 1,
        "requested_rewrite": {
            "prompt": "The capital of {} is",
            "subject": "Veldonia",
            "target_new": {"str": "Karst Harbour"},
            "target_true": {"str": "Ombra"},
        },
        "paraphrase_prompts": ["Veldonia is governed from", "Veldonia's capital is"],
        "neighborhood_prompts": ["The capital of Norwestria is", "The capital of Illmark is"],
        "generation_prompts": ["Visitors who come to Veldonia"],
    },
    {
        "case_id": 2,
        "requested_rewrite": {
            "prompt": "{} was born in the town of",
            "subject": "Tamsin Orlebar",
            "target_new": {"str": "Quill"},
            "target_true": {"str": "Dunmere"},
        },
        "paraphrase_prompts": ["The birthplace of Tamsin Orlebar is"],
        "neighborhood_prompts": ["Jory Penhale was born in the town of"],
    },
]
FLAT = [
    {
        "prompt": "The capital of Veldonia is",
        "subject": "Veldonia",
        "target_new": "Karst Harbour",
        "ground_truth": "Ombra",
        "rephrase_prompt": "What is the capital of Veldonia?",
        "locality_prompt": "The capital of Norwestria is",
        "locality_ground_truth": "Ombra",
    },
    {
        "prompt": "The mother tongue of Tamsin Orlebar is",
        "subject": "Tamsin Orlebar",
        "target_new": "Cornish",
        "ground_truth": "Breton",
        "rephrase_prompt": "Tamsin Orlebar is a native speaker of",
        "locality_prompt": "The mother tongue of Jory Penhale is",
        "locality_ground_truth": "Breton",
    },
    {
        "prompt": "The author of The Salt Ledger is",
        "subject": "The Salt Ledger",
        "target_new": "Ines Varga",
        "ground_truth": "Otto Brill",
        "rephrase_prompt": "The Salt Ledger was written by",
        "locality_prompt": "The author of The Copper Stair is",
        "locality_ground_truth": "Otto Brill",
    },
]
ZSRE = [
    {
        "prompt": "What is the capital of Veldonia?",
        "subject": "Veldonia",
        "target_new": "Karst Harbour",
        "ground_truth": ["Ombra"],
        "rephrase_prompt": "Which city is Veldonia's capital?",
        "portability": {
            "Subject_Aliasing": [{"prompt": "What is the capital of the Veldonian Republic?", "ground_truth": "Karst Harbour"}],
            "Reasoning": [{"prompt": "Which sea lies beside the capital of Veldonia?", "ground_truth": [["Karst Sea", "Sea of Karst"]]}],
            "Logical_Generalization": [{"prompt": "Of which country is Karst Harbour the capital?", "ground_truth": ""}],
        },
        "locality": {
            "Relation_Specificity": [
                {"prompt": "The currency of Veldonia is", "ground_truth": ["crown"]},
                {"prompt": "Veldonia flag", "ground_truth": []},
                {"prompt": "Veldonia capital city", "ground_truth": ["Ombra"]},
            ],
            "Distracting_Neighbor": [{"prompt": "Veldonia's capital is Karst Harbour. The capital of Illmark is", "ground_truth": ["Pell"]}],
        },
    }
]
MEND = [
    {
        "src": "Who wrote The Salt Ledger?",
        "rephrase": "Whose book is The Salt Ledger?",
        "subject": "The Salt Ledger",
        "alt": "Ines Varga",
        "answers": ["Otto Brill"],
        "loc": "nq question: how many legs does a harvest spider have",
        "loc_ans": "eight",
        "portability": {"New Question": "Where was the author of The Salt Ledger born?", "New Answer": "Quill"},
    }
]
QAEDIT = [
    {
        "prompt": "in which year did the   Bellmoor ferry sink?",
        "subject": "bellmoor ferry",
        "target": "1931",
        "rephrase": "When was the sinking of the Bellmoor ferry?",
        "locality": [{"loc": "how do you peel a mango", "loc_ans": "with a knife"}],
    },
    {"prompt": "Who steered the Bellmoor ferry that night?", "subject": "Bellmoor's ferry", "target": "Anders Holt", "rephrase": "Who was at the helm?"},
]
MQUAKE = [
    {
        "case_id": 1,
        "requested_rewrite": [
            {
                "prompt": "{} was founded by",
                "target_new": {"str": "Ines Varga"},
                "target_true": {"str": "Otto Brill"},
                "subject": "Brill & Daughters",
                "question": "Who founded Brill & Daughters?",
            }
        ],
        "questions": ["Where was the founder of Brill & Daughters born?", "In which town was the person who founded Brill & Daughters born?"],
        "answer": "Dunmere",
        "answer_alias": [],
        "new_answer": "Quill",
        "new_answer_alias": ["Quill-on-Sea"],
        "single_hops": [],
        "new_single_hops": [
            {"question": "Who founded Brill & Daughters?", "cloze": "Brill & Daughters was founded by", "answer": "Ines Varga", "answer_alias": ["I. Varga"]},
            {"question": "Where was Ines Varga born?", "cloze": "Ines Varga was born in", "answer": "Quill", "answer_alias": []},
        ],
        "orig": {"new_triples_labeled": [["Brill & Daughters", "founded by", "Ines Varga"], ["Ines Varga", "place of birth", "Quill"]]},
    }
]
HARD = [
    {
        "edit_statement": "Tamsin Orlebar's mother tongue is Cornish.",
        "subject_name": "Tamsin Orlebar",
        "edit_scope": [["What is Tamsin Orlebar's mother tongue?", "Cornish"], ["What is Tamsin Orlebar's native language?", "Cornish"]],
        "edit_scope_true_ans": ["Breton", "Breton"],
        "unrelated": {
            "neighbor_subj": ["What is Jory Penhale's mother tongue?"],
            "same_subj": ["Where did Tamsin Orlebar die?", "Where did Tamsin Orlebar die?"],
        },
        "unrelated_true_ans": {"neighbor_subj": ["Breton"], "same_subj": ["Quill"]},
    },
    {
        "edit_statement": "Karst Harbour is where The Salt Ledger was printed.",
        "subject_name": "The Salt Ledger",
        "edit_scope": [["Where was The Salt Ledger printed?", "Karst Harbour"]],
        "edit_scope_true_ans": ["Ombra"],
        "unrelated": {"neighbor_subj": [], "same_subj": ["Who wrote The Salt Ledger?"]},
    },
]
FEVER = [
    {
        "edit_statement": "Ines Varga has never left Quill.",
        "edit_scope": [["Ines Varga has never left Quill.", "yes"], ["Ines Varga travelled the world.", "no"]],
    },
    {"edit_statement": "The Salt Ledger is a film.", "edit_scope": [["The Salt Ledger is a film.", "yes"], ["The Salt Ledger is a book.", "no"]]},
]
SCOPE = [
    {"statement": "The capital of Veldonia is Karst Harbour", "query": "What is the capital of Veldonia?", "label": 1},
    {"statement": "The capital of Veldonia is Karst Harbour", "query": "What is the currency of Veldonia?", "label": 0},
    {"statement": "The capital of Veldonia is Karst Harbour", "query": "The capital of Illmark is", "label": False, "kind": "neighborhood"},
    {"statement": "Tamsin Orlebar's mother tongue is Cornish", "query": "How do I fold a fitted sheet?", "label": "out_of_scope"},
]
FILES: dict[str, list[Any]] = {
    "counterfact": COUNTERFACT,
    "counterfact-flat": FLAT,
    "zsre": ZSRE,
    "knowedit": ZSRE,
    "zsre-mend": MEND,
    "qaedit": QAEDIT,
    "mquake": MQUAKE,
    "cf-hard": HARD,
    "fever": FEVER,
    "scope": SCOPE,
}


def write(folder: Path, name: str, rows: list[Any] | None = None, *, lines: bool = False) -> Path:
    """The file of a format, or other rows."""
    path = folder / f"{name}.{'jsonl' if lines else 'json'}"
    found = FILES[name] if rows is None else rows
    path.write_text("\n".join(map(json.dumps, found)) + "\n" if lines else json.dumps(found, indent=1), encoding="utf-8")
    return path
