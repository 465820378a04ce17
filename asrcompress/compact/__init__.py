"""The compact layout of an artifact: record and tensors of a small model as one stream of a range coder.

`range_coder.py` codes single bits, `text.py` the record's words, `record.py` a record as text and numbers, `layout.py`
what is in the file, in which order. Lossless: what is read back is the record and the tensors, to the bit. Nothing here
knows what the tensors mean; artifact.py does.
"""
