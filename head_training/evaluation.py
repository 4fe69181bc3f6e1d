"""Predictions and truth → ``EVAL/metrics.json`` and ``EVAL/metrics.parquet``: every number, with its interval and counts.

``metrics.parquet`` has one row a number, in the schema :data:`cxrfeat.schema.METRICS`; ``metrics.json`` holds the same rows
under ``numbers`` and, beside them, what is no single number. The whole structure::

    format         1
    notice         "Research software, not a medical device."
    predictions    {file, sha256, rows, scales: ["score"] | ["score", "probability"] | [prefix], scale: the evaluated one,
                    findings: [...], missing_findings: [...], left_out: {reason: rows}}
    labels         {file, sha256: of the file, digest: of the evaluated (image, findings) pairs, images, patients,
                    ages_unusable, counts: {"No Finding": n, finding: n, ...} of the evaluated images}
    protocol       {name: "official list" | "patient hash" | "unknown", why: a sentence, patients_in_both: n}
    settings       {resamples, seed, confidence: 0.95, unit: "patient", bins: 15, points: [...], targets: [...]}
    splits         {split: {images, patients, without_prediction}}; "val" and "test", or "test" alone
    thresholds     {point: {finding or "any finding": threshold or null}}; chosen on val, but for fixed_0.20
    numbers        [{split, group, model, scope, point, scale, metric, value, low, high, resamples, threshold, images,
                     patients, positives, note}, ...]
    curves         {split: {scope: {"roc": {"fpr": [...], "tpr": [...]}, "pr": {"recall": [...], "precision": [...]}}}}
                    scope: a finding, "micro", "any finding"; a finding without both classes has no entry
    reliability    {split: {scale: {finding: {"mean": [...], "observed": [...], "images": [...]}}}}, one entry a bin of
                    width 1/15; mean probability and share of positives are null in an empty bin
    baselines      {"train_images", "train_patients", "note"}: what the honesty models were fitted on; note = why not
    literature     [{name, year, protocol, source, mean, findings: {...}, verified: whether the values of the
                     findings were checked against the paper}, ...]

A row of ``numbers``:

=========== ========================================================================================================
split       ``val``, ``test``
group       ``all``, or a subgroup: ``sex=F``, ``sex=M``, ``age=0-17`` …, ``view=PA`` …; ``sex=unknown`` where it is missing
model       ``predictions``; or an honesty model: ``view``, ``age+sex``, ``view+age+sex``, ``untrained``
scope       a finding; ``macro`` (mean over the findings that are defined), ``micro`` (all in one), ``weighted`` (by
            positives), ``samples`` (mean over images); ``any finding`` (triage)
point       operating point: ``youden``, ``f1``, ``sensitivity_0.90``, ``fixed_0.20``; for triage ``youden`` and
            ``sensitivity_0.90``, ``_0.95``, ``_0.99``; null where no threshold is involved
scale       column prefix of what was measured: ``score``, ``probability``, …; null for honesty models
metric      ``auroc``, ``average_precision``; ``brier``, ``ece``; at a point ``sensitivity``, ``specificity``, ``ppv``,
            ``npv``, ``f1``, ``accuracy``, ``tp``, ``fp``, ``tn``, ``fn``; averages ``precision``, ``recall``, ``f1``
value       null where it is not defined; then ``note`` says why
low, high   95 % percentile interval over patients; null where fewer than 95 % of the resamples define the number
resamples   how many define it
threshold   that was applied
images, patients, positives   that the number is computed from; for ``macro`` and ``micro`` positives are summed
note        why a value is null, or what it is computed over
=========== ========================================================================================================

Triage: the score of "any finding" is 1 - Π(1 - p_f), as if findings were independent, against "No Finding" as the
negative; its ``specificity`` is the share of studies without a finding that could be set aside unread at that point.
"""
