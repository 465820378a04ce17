"""Speech as it lies on disk: audio files, transcribed sets, keyword sets. Computes no features.

Read in this order: audio.py (samples), tables.py (tab-separated files), folders.py (trees of audio),
content.py (ids, content hash, missing files), datasets.py (utterances with references),
keyword_datasets.py (clips with words).
"""
