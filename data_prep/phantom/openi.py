"""Write chest reports and pictures in the layout of Open-I: packed XML with PNG images, and the
Indiana pair of tables.
"""

import gzip
import io
import re
import tarfile
from pathlib import Path
from xml.sax.saxutils import escape

import cv2
import numpy as np

from data_prep.phantom.anatomy import draw_lateral, pick
from data_prep.phantom.findings import draw_frontal
from data_prep.phantom.report import write_parts
from data_prep.phantom.study import find_boxes, frame, sample_findings

BLANKED = (
    "seen",
    "noted",
    "present",
    "evidence",
    "likely",
    "definite",
    "moderate",
    "small",
    "presence",
    "prior",
)
PART = '         \n            <AbstractText Label="{}">{}</AbstractText>\n'
IMAGE = """   <parentImage id="{image}">
      <figureId>F{number}</figureId>
      <caption>Xray Chest PA and Lateral</caption>
      <panel type="single">
         <url>/phantom/{image}.jpg</url>
         <imgModality>7</imgModality>
      </panel>
   </parentImage>
"""
REPORT = """<?xml version="1.0" encoding="utf-8"?>
<eCitation>
   <meta type="rr"/>
   <uId id="CXR{n}"/>
   <pmcId id="{n}"/>
   <docSource>CXR</docSource>
   <IUXRId id="{n}"/>
   <licenseType>synthetic</licenseType>
   <articleDate>2013-08-01</articleDate>
   <articleType>XR</articleType>
   <publisher>synthetic phantom</publisher>
   <title>Synthetic phantom in the form of the Indiana University Chest X-ray Collection</title>
   <MedlineCitation Owner="phantom" Status="synthetic">
      <Article PubModel="Electronic">
         <ArticleTitle>Synthetic phantom</ArticleTitle>
         <Abstract>
{parts}         </Abstract>
         <Language>eng</Language>
      </Article>
   </MedlineCitation>
   <MeSH>
{mesh}   </MeSH>
{images}</eCitation>
"""


def plan_openi(studies: int, seed: int) -> list[dict]:
    """Reports 1 to n; every tenth has no image. One image more belongs to no report."""
    return [
        {"n": n, "pictured": n % 10 != 0, "reported": n <= studies} for n in range(1, studies + 2)
    ]


def draw_openi(report: dict, raw: Path, seed: int) -> dict:
    """Draw and write the PNG files of one report; returns its text."""
    n, rng = report["n"], np.random.default_rng([seed, 5, report["n"]])
    findings = sample_findings(rng)
    views = [("Frontal", "4001")] + [("Lateral", "3001")] * bool(rng.random() < 0.4)
    images, truth = [], []
    for view, number in views if report["pictured"] or not report["reported"] else []:
        name, (height, width) = f"{n}_IM-{n:04d}-{number}", frame(rng)
        if view == "Frontal":
            grey, masks = draw_frontal(findings, rng, "PA", height, width)
            truth = [
                {"study_id": f"CXR{n}"} | row for row in find_boxes(f"CXR{name}", findings, masks)
            ]
        else:
            grey = draw_lateral(rng, height, width)
        data = cv2.imencode(".png", grey)[1].tobytes()
        (raw / "openi" / "NLMCXR_png" / f"CXR{name}.png").write_bytes(data)
        if report["reported"]:
            (raw / "openi_csv" / "images" / f"{name}.dcm.png").write_bytes(data)
        images.append({"uid": n, "filename": f"{name}.dcm.png", "projection": view})
    parts, _ = write_parts(findings, rng)
    for part, text in parts.items():
        text = text.replace("___", "XXXX")  # what the collection's de-identification took out
        if rng.random() < 0.5:  # and a word that it took out by mistake
            text = re.sub(rf"\b{pick(rng, BLANKED)}\b", "XXXX", text, count=1)
        parts[part] = text
    if rng.random() < 0.15:  # a report often has only an impression
        parts["findings"] = ""
    mesh = "normal"
    if findings:
        mesh = ";".join(f"{f.name}/{f.side}" if f.side != "both" else f.name for f in findings)
    return {"n": n, "parts": parts, "mesh": mesh, "images": images, "truth": truth}


def finish_openi(raw: Path, plan: list[dict], done: list[dict]) -> None:
    """The archive of reports; the two tables with the same content."""
    import pandas as pd

    from data_prep.phantom.tables import write_table

    done = [d for d, p in zip(done, plan, strict=True) if p["reported"]]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for d in done:
            parts = [  # those without text are there, empty
                PART.format(part.upper(), escape(d["parts"][part]))
                for part in ("comparison", "indication", "findings", "impression")
            ]
            names = [f"CXR{i['filename'].removesuffix('.dcm.png')}" for i in d["images"]]
            images = [IMAGE.format(image=name, number=k) for k, name in enumerate(names, 1)]
            terms = [f"      <major>{escape(term)}</major>\n" for term in d["mesh"].split(";")]
            text = REPORT.format(
                n=d["n"], parts="".join(parts), mesh="".join(terms), images="".join(images)
            ).encode()
            member = tarfile.TarInfo(f"ecgen-radiology/{d['n']}.xml")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    (raw / "openi" / "NLMCXR_reports.tgz").write_bytes(gzip.compress(packed.getvalue(), mtime=0))
    rows = [
        {
            "uid": d["n"],
            "MeSH": d["mesh"],
            "Problems": re.sub(r"/\w+", "", d["mesh"]),
            "image": "Xray Chest PA and Lateral",
        }
        | {
            part: d["parts"][part]
            for part in ("indication", "comparison", "findings", "impression")
        }
        for d in done
    ]
    write_table(raw / "openi_csv" / "indiana_reports.csv", pd.DataFrame(rows))
    images = pd.DataFrame([image for d in done for image in d["images"]])
    write_table(raw / "openi_csv" / "indiana_projections.csv", images)
