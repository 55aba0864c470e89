"""A table with its folder of pictures, as anybody might have it."""

import pandas as pd
from data_prep_trees import encoded, picture

BOTH = {"image_column": "image", "text_column": "report"}


def folder(root, count=30, **columns):
    """Images in root/images and a DataFrame that names them."""
    (root / "images").mkdir(parents=True)
    for k in range(count):
        (root / "images" / f"{k:02d}.png").write_bytes(encoded(picture(k)))
    reports = [
        "Small left pleural effusion." if k % 2 else "No pleural effusion." for k in range(count)
    ]
    return pd.DataFrame(
        {"image": [f"images/{k:02d}.png" for k in range(count)], "report": reports} | columns
    )


def written(table, path, **options):
    table.to_csv(path, index=False, **options)
    return path
