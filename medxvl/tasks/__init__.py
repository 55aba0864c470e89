"""One file a downstream task: functions from a model and data to scores, and from scores to result
rows.
"""
