"""Redaction of secrets in URIs, and of nothing else."""

import pytest

from pipeline.io.redaction import redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://anna:hunter2@db/runs", "postgresql://anna:***@db/runs"),
        ("postgresql://anna:hun/te@r2@db/runs", "postgresql://anna:***@db/runs"),
        ("mysql+pymysql://anna:4711@db:3306/runs", "mysql+pymysql://anna:***@db:3306/runs"),
        (
            "postgresql://db/runs?user=anna&password=x%26y",
            "postgresql://db/runs?user=anna&password=***",
        ),
        ("http://anna:hunter2@mlflow:5000", "http://anna:***@mlflow:5000"),
        ("http://anna:p@ss@mlflow:5000/x", "http://anna:***@mlflow:5000/x"),
        ("https://ghp_123@host/a.tar", "https://***@host/a.tar"),
        ("s3://KEY:secret@bucket/a.tar", "s3://KEY:***@bucket/a.tar"),
        (
            "https://b.s3.amazonaws.com/t-{000..009}.tar?X-Amz-Date=2&X-Amz-Credential=A%2Fb&X-Amz-Signature=0f",
            "https://b.s3.amazonaws.com/t-{000..009}.tar?X-Amz-Date=2&X-Amz-Credential=***&X-Amz-Signature=***",
        ),
        (
            "https://s.googleapis.com/b/a.tar?X-Goog-Signature=1&X-Goog-Expires=9",
            "https://s.googleapis.com/b/a.tar?X-Goog-Signature=***&X-Goog-Expires=9",
        ),
        (
            "https://a.blob/c/a.tar?sv=2024&sig=a%3D&se=1",
            "https://a.blob/c/a.tar?sv=2024&sig=***&se=1",
        ),
        ("https://h/a.tar?Key-Pair-Id=K&Policy=p_", "https://h/a.tar?Key-Pair-Id=***&Policy=***"),
        (
            "https://h/a.tar?TOKEN=1,https://u:p@h/b.tar",
            "https://h/a.tar?TOKEN=***,https://u:***@h/b.tar",
        ),
        # In the errors of other libraries, and in ours.
        ("https://h/a?sig=a:b: 3 bytes", "https://h/a?sig=***: 3 bytes"),
        (
            "Max retries exceeded with url: /a?token=abc (Caused",
            "Max retries exceeded with url: /a?token=*** (Caused",
        ),
        (
            "tracking.uri='postgresql://a:b@c/d': MLflow: no",
            "tracking.uri='postgresql://a:***@c/d': MLflow: no",
        ),
        (
            "data.train='https://h/a?sig=1': two\nlines",
            "data.train='https://h/a?sig=***': two\nlines",
        ),
    ],
)
def test_secrets_are_hidden(text, shown):
    assert redacted(text) == shown
    assert redacted(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////runs/mlflow.db",
        "http://mlflow:5000",
        "http://mlflow:5000/experiments/1/runs/a@b",
        "postgresql://anna@db:5432/runs",
        "out/lspet/train-?.tar,out/v-{000..012}.tar",
        "s3://pose/train-*.tar",
        "s3://pose/a:b@c/train.tar",
        "https://host/a.tar?versionId=3&partNumber=2",
        "mail to anna@example.org: no such file",
        "model.stacks must be at least 1, got 0",
    ],
)
def test_other_text_is_unchanged(text):
    assert redacted(text) == text
