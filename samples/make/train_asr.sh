#!/bin/sh
# Train the ASR sample with fairseq-train, on one thread of one CPU core.
# usage: train_asr.sh WORK     (after make_speech.py WORK and make_vocabulary.py WORK)
# Two stages, because plain training from scratch on sentences converges late or never: single words and pairs first,
# then sentences from those weights; CTC beside the cross entropy in both. All paths are relative to WORK, so the
# checkpoint holds no machine's path. Leaves WORK/ckpt/checkpoint_best.pt.
set -eu
cd "$1"
export OMP_NUM_THREADS=1 TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1

train() {
    fairseq-train data --cpu --task speech_to_text --config-yaml config.yaml --valid-subset dev --num-workers 0 \
        --arch s2t_transformer_xs --share-decoder-input-output-embed --conv-kernel-sizes 5,5 --conv-channels 128 \
        --encoder-embed-dim 64 --encoder-ffn-embed-dim 256 --encoder-layers 4 --encoder-attention-heads 4 \
        --decoder-embed-dim 64 --decoder-ffn-embed-dim 256 --decoder-layers 2 --decoder-attention-heads 4 \
        --dropout 0.05 --max-source-positions 1000 --max-target-positions 60 \
        --criterion label_smoothed_cross_entropy_with_ctc --ctc-weight 0.3 --label-smoothing 0.1 --report-accuracy \
        --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 10 --lr-scheduler polynomial_decay \
        --required-batch-size-multiple 1 --max-tokens 6000 --max-tokens-valid 20000 --skip-invalid-size-inputs-valid-test --no-epoch-checkpoints \
        --log-format simple --log-interval 100 --seed 1 "$@"
}

train --train-subset train_words --save-dir ckpt_words --lr 0.002 --warmup-updates 200 \
    --total-num-update 3000 --max-update 1500
train --train-subset train --save-dir ckpt --finetune-from-model ckpt_words/checkpoint_last.pt --lr 0.0015 \
    --warmup-updates 300 --total-num-update 2500 --max-update 2500
