"""Lines of a metadata file with the expected result of each, for the tests of both readers, Spark's and pandas'."""

from __future__ import annotations

HEADER_2017 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
HEADER_V2020 = HEADER_2017.rstrip(",")

GOOD = {  # line -> (follow_up, age_years, sex, view, findings)
    "a.png,No Finding,0,1,058Y,M,PA": (0, 58.0, "M", "PA", []),
    "b.png,Mass|Nodule|Atelectasis|Mass,3,1,006M,F,AP": (3, 0.5, "F", "AP", ["Atelectasis", "Mass", "Nodule"]),
    "c.png,Hernia,,2,012D,f,": (None, 12 / 365.2425, "F", None, ["Hernia"]),
    "d.png,,0,2,,,PA": (0, None, None, "PA", None),
    "e.png, Edema | Mass ,0,2,52W,M,LL": (0, 52 / 52.1775, "M", "LL", ["Mass", "Edema"]),
    "f.png,No Finding,0,3,0,M,PA": (0, 0.0, "M", "PA", []),
    "g.png,No Finding,0,3,123,M,PA": (0, 123.0, "M", "PA", []),
    '"h,1.png",No Finding,0,3,57.0,M,PA': (0, 57.0, "M", "PA", []),
}

BAD = {  # line -> (reason, part of the message)
    "a.png,Mass,0": ("malformed", "number of fields"),
    ",Mass,0,1,1,M,PA": ("image-index-missing", "Image Index"),
    "a.png,Mass,0,,1,M,PA": ("patient-id-missing", "Patient ID"),
    "a.png,Mass,x,1,1,M,PA": ("follow-up-unreadable", "'x'"),
    "a.png,Mass,0,1,old,M,PA": ("age-unreadable", "'old'"),
    "a.png,Mass,0,1,58X,M,PA": ("age-unreadable", "'58X'"),
    "a.png,Mass,0,1,414Y,M,PA": ("age-out-of-range", "'414Y' is outside 0–123 years"),
    "a.png,Mass,0,1,123.5,M,PA": ("age-out-of-range", "'123.5'"),
    "a.png,Mass,0,1,-1,M,PA": ("age-out-of-range", "'-1'"),
    "a.png,Mass,0,1,1,X,PA": ("sex-unknown", "'X'"),
    "a.png,Mass|Masss,0,1,1,M,PA": ("finding-unknown", "Masss"),
    "a.png,Mass|,0,1,1,M,PA": ("finding-unknown", ""),
    "a.png,No Finding|Mass,0,1,1,M,PA": ("findings-contradict", "No Finding|Mass"),
}
