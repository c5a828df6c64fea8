"""Redaction of secrets in URIs and credentials, and of nothing else."""

import pytest

from pipeline.io.redaction import redacted

# The query of a page of MLflow that compares two runs.
COMPARED = f"runs=%5B%22{'0a' * 16}%22%2C%22{'1b' * 16}%22%5D&experiments=%5B%2212%22%5D"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://anna:SECRET@db/runs", "postgresql://***@db/runs"),
        ("postgresql://anna:hun/te@SECRET@db/runs", "postgresql://***@db/runs"),
        ("postgresql://anna:12/SECRET@db/runs", "postgresql://***@db/runs"),
        ("mysql+pymysql://anna:SECRET@db:3306/runs", "mysql+pymysql://***@db:3306/runs"),
        (
            "postgresql://db/runs?user=a&password=SECRET",
            "postgresql://db/runs?user=***&password=***",
        ),
        ("http://anna:SECRET@mlflow:5000", "http://***@mlflow:5000"),
        ("http://anna:pa/SECRET@h/", "http://***@h/"),
        ("https://anna:pa?SECRET@h/x", "https://***@h/x"),
        ("https://anna:pa#SECRET@h/x", "https://***@h/x"),
        ("http://anna:pa SECRET@h/x", "http://***@h/x"),
        ("http://anna@b.org:pa/SECRET@h/", "http://***@h/"),
        ("http://anna:12/SECRET@h/x", "http://***@h/x"),
        ("http://anna:12.SECRET@h/x", "http://***@h/x"),
        ("http://anna:12;SECRET@h/x", "http://***@h/x"),
        ("http://o'brien:SECRET@h/", "http://***@h/"),
        ("http://anna:SECRET@[::1]:5000/", "http://***@[::1]:5000/"),
        ("https://SECRET@host/a.tar", "https://***@host/a.tar"),
        ("https://SECRET:x-oauth-basic@host/", "https://***@host/"),
        ("redis://:SECRET@h:6379", "redis://***@h:6379"),
        ("s3://KEY:se/SECRET@bucket/a.tar", "s3://***@bucket/a.tar"),
        # Mistyped URIs.
        ("http:/anna:SECRET@h/", "http:/***@h/"),
        ("//anna:SECRET@h/", "//***@h/"),
        ("anna:SECRET@h:5000", "***@h:5000"),
        ("http://anna:SECRET", "http://***"),
        ("http://anna%3ASECRET%40h/", "http://***/"),
        ("postgresql:///anna:SECRET@h/db", "postgresql:///***@h/db"),
        # Tokens in the path of a web address.
        ("https://h/token/hunter2/a.tar", "https://h/token/***/a.tar"),
        ("https://h/v1/api_key/hunter2", "https://h/v1/api_key/***"),
        ("https://h/ghp_16C7e42F292c6912E7/a.tar", "https://h/***/a.tar"),
        ("https://h/T0/B0/XqP3vR8sT1uW4yZ6aBcD", "https://h/T0/B0/***"),
        ("https://h/bot123:AAE-SECRET9/a", "https://h/***/a"),
        ("https://h/eyJhbGciOiJI.eyJzdWIiOiIx.c2ln/a.tar", "https://h/***/a.tar"),
        ("open 'https://h/secret/hunter2': no", "open 'https://h/secret/***': no"),
        ("https://h/a%3Fsig%3DSECRET%26b, no", "https://h/a%3F***, no"),
        # What libraries quote.
        ("{'secret': 'my SECRET', 'key': 'a'}", "{'secret': '***', 'key': 'a'}"),
        (r'{"password":"a\"SECRET"}', '{"password":"***"}'),
        ("user=u password='a SECRET' host=h", "user=u password='***' host=h"),
        ("password=a\\ SECRET host=h", "password=*** host=h"),
        ("pass=SECRET, passphrase=SECRET", "pass=***, passphrase=***"),
        ("X-Api-Key: SECRET", "X-Api-Key: ***"),
        ("{'Cookie': 'a=SECRET; b=SECRET'}", "{'Cookie': '***'}"),
        ("Authorization: token SECRET\nno", "Authorization: token ***\nno"),
        ("no such key: ghp_SECRETabcdefghijklmnopq.", "no such key: ***."),
        ("got eyJhbGciOiJIUzI1.eyJSECRET12345.SECRETsig, expected", "got ***, expected"),
        # Databases that take a whole connection string.
        (
            "mssql+pyodbc:///?odbc_connect=UID%3Danna%3BPWD%3DSECRET",
            "mssql+pyodbc:///?odbc_connect=***",
        ),
        (
            "mssql+pyodbc:///?odbc_connect=DRIVER={ODBC 17};PWD=SECRET",
            "mssql+pyodbc:///?odbc_connect=*** 17};PWD=***",
        ),
        # Parameters of whatever name, or without one.
        ("https://h/a.tar?code=SECRET", "https://h/a.tar?code=***"),
        ("https://h/a.tar?to%6ben=SECRET", "https://h/a.tar?to%6ben=***"),
        ("https://h/a.tar?x=1&SECRET", "https://h/a.tar?x=***&***"),
        ("https://h/a.tar?SECRET==", "https://h/a.tar?***"),
        ("https://h/a.tar?SECRET=#x", "https://h/a.tar?***"),
        ("https://h/a.tar?x=a;b=SECRET", "https://h/a.tar?x=***"),
        ("https://h/a.tar#access_token=SECRET", "https://h/a.tar#access_token=***"),
        ("https://h/a.tar?x=1#SECRET", "https://h/a.tar?x=***"),
        ("https://h/#/page?token=SECRET", "https://h/#***"),
        ("https://h/#/compare-runs?runs=SECRET", "https://h/#***"),
        ("https://h/#/compare-runs?runs=%5B%22SECRET%22%5D", "https://h/#***"),
        (f"https://h/#/compare-runs?{COMPARED}&a=SECRET", "https://h/#***&experiments=***&a=***"),
        ("https://h/#/experiments/1?workflowType=a&b=SECRET", "https://h/#***&b=***"),
        (f"https://h/?{COMPARED}", "https://h/?runs=***&experiments=***"),
        ("https://h/a;session=SECRET/b", "https://h/a;session=***"),
        ("sqlite:///a.db?x=SECRET", "sqlite:///a.db?x=***"),
        ("http%3A%2F%2Fanna%3ASECRET%40h", "http%3A%2F%2F***%40h"),
        (
            "https://h/{a,b}.tar?TOKEN=SECRET,https://u:SECRET@h/b.tar",
            "https://h/{a,b}.tar?TOKEN=***,https://***@h/b.tar",
        ),
        # In the errors of other libraries, and in ours.
        ("https://h/a?sig=a:SECRET: 3 bytes", "https://h/a?sig=***: 3 bytes"),
        ("error with url: /a?token=SECRET (Caused", "error with url: /a?token=*** (Caused"),
        ("uri='postgresql://a:SECRET@c/d': no", "uri='postgresql://***@c/d': no"),
        ("train='https://h/a?sig=SECRET': two\nlines", "train='https://h/a?sig=***': two\nlines"),
        ("URL('https://h/a?sig=SECRET')", "URL('https://h/a?sig=***')"),
        ('{"a":"https://h/a?sig=SECRET","b":1}', '{"a":"https://h/a?sig=***","b":1}'),
        ("MLFLOW_TRACKING_PASSWORD=SECRET", "MLFLOW_TRACKING_PASSWORD=***"),
        ("connect('h', password = 'SECRET')", "connect('h', password = '***')"),
        ("Authorization: Bearer SECRET", "Authorization: Bearer ***"),
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
        "(http://mlflow:5000), http://mlflow: no answer",
        "http://mlflow:5000/experiments/1/runs/a@b",
        "open 'http://mlflow:5000/#/experiments/1/runs/abc'",
        f"see http://mlflow:5000/#/compare-runs?{COMPARED}",
        f"(https://mlflow/a/#/compare-runs?{COMPARED}), and http://h/#/experiments/1",
        "http://mlflow:5000/#/experiments/1/runs?viewStateShareKey=scores_pck_torso_0.2",
        "http://mlflow:5000/#/experiments/1/runs?viewStateShareKey=scores_coco_ap",
        "http://mlflow:5000/#/experiments/1/runs/ab?workflowType=machine_learning",
        f"http://mlflow:5000/#/compare-runs?{COMPARED}&workflowType=machine_learning",
        "http://[::1]:5000/runs",
        "http://h/1/0a1b2c3d4e5f60718293a4b5c6d7e8f9/artifacts/model",
        "https://h/COCO_train2014_000000000009/Train-000000.tar",
        "https://h/StackedHourglassNetworks2016/tokens.tar",
        "s3://pose/token/XqP3vR8sT1uW4yZ6aBcD.tar",
        "out/lspet/train-?.tar,out/v-{000..012}.tar",
        "s3://pose/train-*.tar,s3://pose/val-?.tar",
        "s3://pose/a:b@c/train.tar",
        "file:///a/b#c/train-?.tar",
        "models:/pose@champion",
        "mail to anna@example.org: no such file",
        "/home/a/.ray/auth_token: mode 0644, expected 0600",
        "passing: a, compass=north, bypass = 3",
        "photo%3F1.jpg",
        "password: yes",
        "model.stacks must be at least 1, got 0",
        "MLFLOW_TRACKING_URI=http://h:5000 mlflow ui",
    ],
)
def test_other_text_is_unchanged(text):
    assert redacted(text) == text
