"""The settings of a run: one table, three presets side by side, a source for every published value.

Only the standard library is imported here, so that `./run_all.sh --help` works before anything is installed.
"""

import difflib
import shlex
import sys
from dataclasses import asdict, fields, make_dataclass

NAMES = ("smoke", "demo", "paper")

# A notebook is re-run when a setting of a group that it depends on changes (medxvl/graph.py).
# name, group, smoke, demo, paper, meaning, source of the paper's value
# fmt: off
_TABLE = (
    ("seed", "run", 0, 0, 42, "seed of every random draw of training and evaluation", "released code"),
    ("device", "run", "cpu", "cpu", "auto", "cpu, cuda, or auto: cuda when there is one", "our choice"),
    ("threads", "run", 1, 1, 0, "CPU threads of the training notebooks 11 and 20, 0: all", "our choice"),
    ("checkpoint_every", "run", 5, 200, 1000, "steps between states to go on from, 0: after epochs alone", "our choice"),
    ("log_every", "run", 1, 1, 10, "steps between lines of the training log", "our choice"),
    ("seeds", "batch", "", "", "", "seeds to run one after the other, comma-separated; empty: seed alone", "our choice"),
    ("ablations", "batch", "", "", "", "X-VL's components to take off, one at a time (ABLATIONS), comma-separated, or all", "our choice"),
    ("shares", "batch", "", "", "", "shares of the training studies to learn from, comma-separated", "our choice"),
    ("masks", "batch", "", "", "", "MedViLL's masks to run, comma-separated, or all; empty: medvill_mask alone", "our choice"),
    ("studies", "data", 160, 3600, 0, "studies in the phantom, 0: none, real data is needed", "our choice"),
    ("phantom_seed", "data", 7, 7, 7, "seed of the phantom", "our choice"),
    ("store_size", "data", 69, 69, 512, "px, longer side shrunk to this, zero-padded to a square", "released code"),
    ("views", "data", "AP", "AP", "AP", "views kept, comma-separated, one image a study", "MedViLL, data preparation"),
    ("max_reject_share", "data", 0.05, 0.05, 0.05, "share of faulty records above which preparing stops", "our choice"),
    ("reports", "data", "", "", "", "MIMIC-CXR's reports (folder or zip), where they do not lie with the images", "our choice"),
    ("show", "look", "open", "open", "open", "what the notebooks show of images and texts: open, all or none", "our choice"),
    ("resize", "model", 69, 69, 240, "px before the centre crop at evaluation", "released code"),
    ("image_size", "model", 64, 64, 224, "px seen by the vision encoder", "released code"),
    ("channels", "model", 1, 1, 3, "channels of the encoder's input (grey is repeated)", "ImageNet and iBOT weights"),
    ("vision_stem", "model", "conv", "conv", "patch", "patch: one convolution; conv: a stack, for small data", "ViT"),
    ("patch_size", "model", 16, 8, 16, "px, side of a patch", "README: ViT-S/16; final code: ViT-B/16"),
    ("vision_width", "model", 64, 64, 768, "width of the vision encoder", "final code: ViT-B/16"),
    ("vision_layers", "model", 1, 2, 12, "layers of the vision encoder", "final code: ViT-B/16"),
    ("vision_heads", "model", 2, 2, 12, "heads of the vision encoder", "final code: ViT-B/16"),
    ("drop_path", "model", 0.0, 0.0, 0.1, "stochastic depth of the vision encoder", "released code"),
    ("vocabulary", "both", 600, 1000, 30522, "size of the WordPiece vocabulary", "CXR-BERT"),
    ("text_width", "model", 48, 96, 768, "width of the text and fusion encoders", "CXR-BERT"),
    ("text_layers", "model", 2, 2, 12, "layers of the text encoder", "CXR-BERT"),
    ("text_heads", "model", 2, 3, 12, "heads of the text and fusion encoders", "CXR-BERT"),
    ("text_hidden", "model", 96, 192, 3072, "feed-forward width of the text encoder", "CXR-BERT"),
    ("fusion_layers", "model", 2, 2, 4, "layers of the fusion encoder", "released code: layers 8-11 of 12"),
    ("fusion_hidden", "model", 96, 192, 2048, "feed-forward width of the fusion encoder", "released code"),
    ("dropout", "model", 0.0, 0.0, 0.1, "of the text and fusion encoders", "BERT"),
    ("initial_range", "both", 0.02, 0.02, 0.02, "SD of BERT's initial weights", "BERT"),
    ("pooling_start", "both", 1, 1, 0, "1: attention starts as a mean over tokens, instead of from CXR-BERT", "our choice"),
    ("packed", "model", 0, 1, 1, "1: no padding is computed, image keys once; equal but for rounding", "our choice"),
    ("itm_heads", "model", 1, 1, 1, "2: also a head on image-queries-text, logits averaged", "final code; early X-VL: 2"),
    ("max_words", "model", 120, 120, 120, "words of a report that are read", "released code"),
    ("max_tokens", "model", 24, 40, 512, "tokens of a report that are read", "BERT's position table"),
    ("projection", "model", 32, 64, 256, "width of the joint space", "released code"),
    ("pretrain_threads", "pretrain", 1, 2, 0, "CPU threads of notebook 21, which all of X-VL waits for; of a variant one. 0: all", "our choice"),
    ("epochs", "pretrain", 1, 10, 5, "passes over the training studies, published objective", "released code"),
    ("contrast_epochs", "pretrain", 1, 18, 0, "first epochs: plain in-batch contrast, in place of pre-trained encoders", "our choice"),
    ("contrast_batch", "pretrain", 16, 64, 10, "studies a step of those epochs", "our choice"),
    ("contrast_rate", "pretrain", 2e-3, 2e-3, 1e-4, "peak learning rate of those epochs", "our choice"),
    ("contrast_masked", "pretrain", 0.15, 0.15, 0.15, "share of the words that are hidden or replaced in those epochs", "our choice"),
    ("batch_size", "pretrain", 16, 32, 10, "studies a batch and process", "released code"),
    ("accumulation", "run", 1, 1, 1, "batches whose gradients make one step", "released code: none"),
    ("precision", "run", "fp32", "fp32", "fp16", "fp32, or autocast to bf16 or fp16 (fp16 needs a GPU)", "released code"),
    ("learning_rate", "pretrain", 1e-3, 1e-3, 1e-4, "peak of AdamW's learning rate", "released code"),
    ("encoder_rate", "pretrain", 1.0, 0.1, 1.0, "learning rate of both encoders, their projections and where cross-attention looks first, times the others'", "released code: 1"),
    ("min_learning_rate", "pretrain", 1e-4, 1e-4, 2e-5, "end of the cosine", "released code"),
    ("weight_decay", "pretrain", 0.05, 0.05, 0.1, "AdamW", "released code"),
    ("warmup_steps", "pretrain", 2, 50, 200, "steps of linear warm-up", "released code: 2 units of 100 iterations"),
    ("clip", "pretrain", 3.0, 3.0, 3.0, "gradient norm of each vision parameter is cut to this", "released code"),
    ("queue_size", "pretrain", 64, 512, 40960, "momentum features kept in each queue", "released code, final"),
    ("momentum", "pretrain", 0.9, 0.95, 0.995, "of the momentum twins", "released code"),
    ("temperature", "pretrain", 0.07, 0.07, 0.07, "start of the learnable temperature", "released code"),
    ("temperature_rate", "pretrain", 0.02, 0.02, 1.0, "learning rate of the temperature, times the encoders'", "released code: 1"),
    ("alpha", "pretrain", 0.4, 0.4, 0.4, "share of the momentum targets, ramped over epoch 1", "released code"),
    ("mask_share", "both", 0.15, 0.15, 0.15, "share of tokens masked", "paper, masked language modelling"),
    ("excerpt_share", "pretrain", 0.25, 0.5, 0.0, "share of reports of which 1-3 random sentences are read", "released code: none"),
    ("same_report", "pretrain", 0.95, 0.95, 0.95, "cosine from which two reports are no negative pair", "released code"),
    ("negatives", "pretrain", "online", "online", "momentum", "whose features weigh the hard negatives", "released code"),
    ("hardness", "pretrain", 1.0, 0.3, 1.0, "factor on the similarity by which hard negatives are drawn, 0: any of the batch", "released code: 1"),
    ("soft_targets", "pretrain", "vocabulary", "vocabulary", "vocabulary", "axis of the soft targets of masked words; sequence: as released, by mistake", "paper; the release errs"),
    ("local_weight", "pretrain", 1.0, 1.0, 1.0, "weight of the sentence-wise term among the five of the alignment", "released code"),
    ("fusion", "pretrain", 1, 1, 1, "0: alignment alone, without matching and masked words", "released code"),
    ("itm_weight", "pretrain", 2.0, 2.0, 2.0, "weight of the matching loss", "released code"),
    ("crop_scale", "pretrain", 0.7, 0.7, 0.7, "smallest area of the random resized crop", "released code"),
    ("rotation", "pretrain", 10.0, 10.0, 10.0, "degrees of random rotation, either way", "our choice: not in the release"),
    ("jitter", "pretrain", 0.2, 0.2, 0.2, "random brightness and contrast, share", "our choice: not in the release"),
    ("checkpoints", "pretrain", 1, 5, 5, "best checkpoints kept and averaged in zero-shot scoring", "paper, zero-shot"),
    ("vision_weights", "pretrain", "", "", "ibot_vitb16.pth", "start of the vision encoder, a file in data/weights or elsewhere; own: that of notebook 20; empty: random weights", "released code: iBOT"),
    ("vision_branch", "pretrain", "teacher", "teacher", "teacher", "teacher or student: whose weights of an iBOT checkpoint are taken", "released code: an option"),
    ("text_weights", "pretrain", "", "", "cxr-bert", "start of the text encoder, likewise", "released code: CXR-BERT"),
    ("ablation", "pretrain", "", "", "", "one of ABLATIONS, trained as long as notebook 30 says; empty: the whole model", "our choice"),
    ("share", "pretrain", 1.0, 1.0, 1.0, "share of the training patients to learn from, in as many steps as from all", "our choice"),
    ("ablation_epochs", "ablation", 1, 3, 5, "epochs in notebook 30: shorter in the small presets", "our choice: as epochs"),
    ("ablation_contrast_epochs", "ablation", 1, 3, 0, "contrast_epochs in notebook 30", "our choice: as contrast_epochs"),
    ("ablation_start", "ablation", "own", "own", "ibot_vitb16.pth", "vision_weights in notebook 30", "released code: iBOT"),
    ("prompts", "prompts", "", "", "", "CSV file of sentences for zero-shot scoring; empty: those of the release, or made from the labels' names", "our choice"),
    ("bootstrap", "evaluate", 200, 1000, 1000, "resamples of a confidence interval", "released code"),
    ("supervised_start", "supervised", "xvl", "xvl", "xvl", "vision encoder that fine-tuning on labels starts from: xvl, that of notebook 21; own, a file or empty as vision_weights", "our choice: the release leaves it open"),
    ("supervised_epochs", "supervised", 1, 6, 10, "passes of the fine-tuning on labels", "our choice: not stated"),
    ("supervised_batch", "supervised", 16, 32, 32, "studies a step and process", "our choice: not stated"),
    ("supervised_rate", "supervised", 1e-3, 1e-3, 1e-4, "peak learning rate", "our choice: as in pre-training"),
    # X-VL's report-error detection; notebook 24. The paper trains nothing for it: fine-tuning is ours
    ("errors_share", "errors", 0.05, 0.05, 0.05, "share of the reports that are corrupted in the published run", "released code"),
    ("errors_epochs", "errors", 1, 3, 5, "passes of the fine-tuning on generated errors", "our choice: not in the paper"),
    ("errors_batch", "errors", 16, 32, 32, "reports a step and process of that fine-tuning", "our choice: not in the paper"),
    ("errors_rate", "errors", 1e-3, 1e-3, 2e-5, "its peak learning rate", "our choice: not in the paper"),
    # iBOT (arXiv 2111.07832): self-supervised start of the vision encoder; notebook 20
    ("ibot_epochs", "ibot", 1, 5, 100, "passes over the training studies", "our choice: not stated"),
    ("ibot_batch", "ibot", 16, 64, 32, "studies a step and process", "iBOT, ViT-B/16"),
    ("ibot_rate", "ibot", 5e-4, 6e-3, 7.5e-4, "peak of AdamW's learning rate at 256 studies a step", "iBOT, ViT-B/16"),
    ("ibot_min_rate", "ibot", 1e-5, 1e-5, 2e-6, "end of the cosine", "iBOT, ViT-B/16"),
    ("ibot_warmup", "ibot", 0.2, 1.0, 10.0, "epochs of linear warm-up", "iBOT"),
    ("ibot_decay", "ibot", 0.04, 0.04, 0.04, "AdamW, at the start", "iBOT"),
    ("ibot_decay_end", "ibot", 0.4, 0.4, 0.4, "AdamW, at the end of a cosine", "iBOT"),
    ("ibot_clip", "ibot", 3.0, 3.0, 0.3, "gradient norm of each parameter is cut to this", "iBOT, ViT-B/16"),
    ("ibot_momentum", "ibot", 0.99, 0.98, 0.996, "of the teacher at the start, 1 at the end of a cosine", "iBOT"),
    ("ibot_local_crops", "ibot", 2, 2, 10, "small crops of an image, beside two large ones", "iBOT"),
    ("ibot_local_size", "ibot", 32, 32, 96, "px, side of a small crop", "iBOT"),
    ("ibot_global_low", "ibot", 0.6, 0.6, 0.32, "smallest area of a large crop", "iBOT, ViT-B/16"),
    ("ibot_local_low", "ibot", 0.3, 0.3, 0.05, "smallest area of a small crop", "iBOT"),
    ("ibot_local_high", "ibot", 0.6, 0.6, 0.32, "largest area of a small crop", "iBOT, ViT-B/16"),
    ("ibot_prototypes", "ibot", 64, 256, 8192, "outputs of the head that crops and patches share", "iBOT"),
    ("ibot_hidden", "ibot", 64, 128, 2048, "width of the head's inner layers", "iBOT"),
    ("ibot_bottleneck", "ibot", 32, 64, 256, "width before the prototypes", "iBOT"),
    ("ibot_temperature", "ibot", 0.1, 0.1, 0.1, "of the student", "iBOT"),
    ("ibot_teacher_start", "ibot", 0.04, 0.04, 0.04, "temperature of the teacher at the start", "iBOT"),
    ("ibot_teacher_temperature", "ibot", 0.04, 0.04, 0.07, "temperature of the teacher after its warm-up", "iBOT"),
    ("ibot_teacher_warmup", "ibot", 0.5, 3.0, 50.0, "epochs of that warm-up", "iBOT, ViT-B/16"),
    ("ibot_centre_momentum", "ibot", 0.9, 0.9, 0.9, "of the running means that the teacher's outputs lose", "iBOT"),
    ("ibot_mask_share", "ibot", 0.3, 0.3, 0.3, "mean share of patches masked, in the crops that are", "iBOT"),
    ("ibot_mask_spread", "ibot", 0.2, 0.2, 0.2, "that share differs by up to this, either way", "iBOT"),
    ("ibot_masked", "ibot", 0.5, 0.5, 0.5, "share of large crops with a mask", "iBOT"),
    ("ibot_frozen", "ibot", 0, 1, 1, "first epochs in which the prototypes stay", "iBOT"),
    ("explain_images", "explain", 24, 0, 0, "images with boxes that are scored, 0: all", "our choice"),
    ("explain_threshold", "explain", 0.5, 0.5, 0.5, "share of a map's maximum from which a pixel is marked (IoU)", "our choice: none is stated"),
    # MedViLL: what it shares with X-VL (seed, mask_share, initial_range, pooling_start, ...) stands above
    ("medvill_mask", "medvill", "bar", "bar", "bar", "bidirectional, seq2seq, bi_seq2seq, noncross or bar", "paper"),
    ("medvill_padding", "medvill", "blocked", "blocked", "blocked", "blocked: nobody looks at padding; pretraining, finetuning: as the release's code does there", "our choice"),
    ("medvill_seq2seq", "medvill", 0.75, 0.75, 0.75, "share of Seq2Seq samples in bi_seq2seq", "released code"),
    ("medvill_trunk", "medvill", "conv", "conv", "resnet50", "image encoder: resnet50, patch or conv", "paper"),
    ("medvill_vision_weights", "medvill", "", "", "resnet50.pth", "start of the image encoder, a file in data/weights or elsewhere; empty: random weights", "paper: ImageNet"),
    ("medvill_text_weights", "medvill", "", "", "bert-base-uncased", "start of BERT, likewise", "paper: BERT-base; released code: random weights"),
    ("medvill_freeze", "medvill", "aligned", "aligned", "meant", "of the image encoder: none; meant: ResNet-50's first five children; released: all, but batch-norm statistics move; aligned: all, after the alignment", "released code, as meant"),
    ("medvill_image_size", "medvill", 64, 64, 512, "px seen by the image encoder", "paper"),
    ("medvill_channels", "medvill", 1, 1, 3, "channels of its input (grey is repeated)", "ImageNet weights"),
    ("medvill_similarity_start", "medvill", 1, 1, 0, "1: the first layer's attention starts as a look-up of similar image tokens", "our choice"),
    ("medvill_patch", "medvill", 16, 16, 32, "px, side of a patch of the encoders patch and conv", "released code"),
    ("medvill_features", "medvill", 64, 128, 2048, "features of the encoders patch and conv", "released code"),
    ("medvill_positions", "medvill", 12, 12, 180, "grid positions kept in a pre-training step, of all", "released code"),
    ("medvill_draw", "medvill", "sample", "sample", "sample", "those positions are drawn for each sample, or once a batch", "released code: batch"),
    ("medvill_text", "medvill", 48, 80, 253, "tokens of a report that are read", "released code"),
    ("medvill_max_positions", "medvill", 64, 128, 512, "rows of the position table", "BERT-base"),
    ("medvill_width", "medvill", 48, 96, 768, "width of BERT", "BERT-base"),
    ("medvill_layers", "medvill", 2, 3, 12, "layers of BERT", "BERT-base"),
    ("medvill_heads", "medvill", 2, 3, 12, "heads of BERT", "BERT-base"),
    ("medvill_hidden", "medvill", 96, 192, 3072, "feed-forward width of BERT", "BERT-base"),
    ("medvill_dropout", "medvill", 0.0, 0.0, 0.1, "of BERT", "BERT-base"),
    ("medvill_matched", "medvill", 0.5, 0.5, 0.5, "share of pairs with their own report", "released code"),
    ("medvill_mlm_mismatched", "medvill", 0, 0, 0, "1: masked words of mismatched pairs train too", "released code: 1"),
    ("medvill_crop_low", "medvill", 0.8, 0.8, 0.8, "smallest area of the random resized crop", "released code"),
    ("medvill_crop_high", "medvill", 1.1, 1.1, 1.1, "largest area of it; what does not fit is drawn again", "released code"),
    ("medvill_alignment_epochs", "medvill", 1, 20, 0, "notebook 10: epochs of contrast of image tokens and words, in place of encoders trained before", "our choice"),
    ("medvill_alignment_batch", "medvill", 16, 64, 32, "studies a step of those epochs", "our choice"),
    ("medvill_alignment_rate", "medvill", 2e-3, 2e-3, 1e-4, "peak learning rate of those epochs", "our choice"),
    ("medvill_matching_epochs", "medvill", 1, 2, 0, "first epochs: the matching loss alone", "our choice"),
    ("medvill_epochs", "medvill", 1, 3, 50, "passes over the training studies", "released code"),
    ("medvill_batch", "medvill", 16, 32, 32, "studies a step and process", "released code: 32 and 36"),
    ("medvill_rate", "medvill", 5e-4, 5e-4, 1e-5, "peak of AdamW's learning rate", "released code"),
    ("medvill_min_rate", "medvill", 1e-4, 1e-4, 1e-5, "end of its cosine", "released code: constant"),
    ("medvill_weight_decay", "medvill", 0.0, 0.0, 0.0, "AdamW", "released code: its library's default"),
    ("medvill_warmup", "medvill", 2, 50, 0, "steps of linear warm-up", "released code: none"),
    # Fine-tuning of MedViLL: what the tasks share, then each task
    ("task_positions", "tune", "own", "own", "own", "positions in fine-tuning: own, as in pre-training; released, as the release's tasks have them", "our choice: the release's differ from its pre-training"),
    ("tune_weight_decay", "tune", 0.0, 0.01, 0.01, "AdamW, on matrices", "released code: its library's default"),
    ("tune_warmup", "tune", 2, 20, 0, "steps of linear warm-up", "our choice: none is stated"),
    ("tune_end", "tune", 0.1, 0.1, 1.0, "share of the learning rate at the end of a cosine, 1: constant", "released code: constant"),
    ("classify_epochs", "classify", 1, 2, 10, "passes over the training studies", "released code"),
    ("classify_batch", "classify", 16, 32, 20, "studies a step and process", "released code"),
    ("classify_rate", "classify", 5e-4, 1e-3, 1e-4, "peak learning rate", "released code"),
    ("vqa_epochs", "vqa", 1, 5, 50, "passes over the training questions", "our choice: not stated"),
    ("vqa_batch", "vqa", 16, 32, 32, "questions a step and process", "our choice: not stated"),
    ("vqa_rate", "vqa", 5e-4, 1e-3, 3e-5, "peak learning rate", "released code"),
    ("generate_epochs", "generate", 1, 4, 50, "passes over the training studies", "our choice: not stated"),
    ("generate_batch", "generate", 16, 16, 32, "studies a step and process", "our choice: not stated"),
    ("generate_rate", "generate", 1e-3, 2e-3, 3e-5, "peak learning rate", "our choice: as for answers"),
    ("generate_objective", "generate", "every", "every", "masked", "masked: 15 % of the words are hidden; every: each word from those before it", "paper"),
    ("generate_drop_worst", "generate", 0.0, 0.0, 0.0, "share of a batch's reports, those with the largest loss, that are not learned", "our choice: all are; released code: 0.2 in the option's default"),
    ("generate_most", "generate", 48, 80, 128, "words of a generated report at most", "released code"),
    ("generate_ngram", "generate", 0, 4, 0, "words of a run that may not occur twice in a report, 0: may", "released code: an option, off"),
    ("generate_beams", "generate", 2, 3, 5, "beams beside greedy decoding", "our choice: the release leaves it open"),
    # Fine-tuning of X-VL: what its tasks share, its encoder-decoder, then each task
    ("xvl_tune_frozen", "xvl_tune", 1, 1, 0, "1: the vision encoder stays as pre-trained, its tokens are computed once", "released code: it is trained"),
    ("xvl_tune_weight_decay", "xvl_tune", 0.01, 0.01, 0.1, "AdamW, on matrices", "our choice: as in pre-training"),
    ("xvl_tune_warmup", "xvl_tune", 2, 20, 200, "steps of linear warm-up", "our choice: as in pre-training"),
    ("xvl_tune_end", "xvl_tune", 0.1, 0.1, 0.2, "share of the learning rate at the end of a cosine, 1: constant", "our choice: as in pre-training"),
    ("writer_text_layers", "writer", 2, 2, 8, "text layers below those that look at the image", "released code: layers 8-11 of 12 look at it"),
    ("writer_layers", "writer", 2, 2, 4, "layers of the decoder", "released code"),
    ("writer_positions", "writer", 64, 64, 512, "rows of the decoder's position table", "CXR-BERT"),
    ("writer_copies", "writer", 1, 1, 0, "1: the decoder also sees the words of the text that is read, and starts as copying them", "our choice: not in the release"),
    ("correct_epochs", "correct", 1, 7, 30, "passes over the training reports", "our choice: as for questions"),
    ("correct_batch", "correct", 16, 32, 10, "reports a step and process", "our choice: as in pre-training"),
    ("correct_rate", "correct", 1e-3, 2e-3, 1e-4, "peak learning rate", "our choice: as for questions"),
    ("correct_share", "correct", 0.5, 0.5, 0.5, "share of reports that get an error", "released code"),
    ("correct_words", "correct", 3, 3, 1, "how many times as often as the others the types that swap words are drawn in training", "our choice: as often"),
    ("correct_beams", "correct", 2, 4, 4, "beams", "released code"),
    ("correct_pool", "correct", 20, 100, 1000, "test reports that get an error of each type, beside the mixed ones", "our choice"),
    ("correct_kept", "correct", 0.95, 0.95, 0.95, "share of error-free validation reports that a sure correction must leave as they are", "our choice: not in the paper"),
    ("correct_most", "correct", 24, 40, 120, "words of a corrected report at most", "released code"),
    ("xvl_generate_epochs", "xvl_generate", 1, 3, 30, "passes over the training reports", "our choice: not stated"),
    ("xvl_generate_batch", "xvl_generate", 16, 16, 10, "reports a step and process", "our choice: not stated"),
    ("xvl_generate_rate", "xvl_generate", 1e-3, 2e-3, 1e-4, "peak learning rate", "our choice: not stated"),
    ("xvl_generate_beams", "xvl_generate", 2, 3, 3, "beams", "released code"),
    ("xvl_generate_most", "xvl_generate", 48, 60, 120, "words of a generated report at most", "released code"),
    ("writer_length_power", "writer", 0.6, 0.6, 0.6, "a text's score is divided by ((5 + words) / 6) to this power", "released code"),
    ("writer_least", "writer", 2, 2, 2, "words of a text at least", "released code"),
    ("retrieve_epochs", "retrieve", 1, 1, 10, "passes over the training studies", "our choice: not stated"),
    ("retrieve_batch", "retrieve", 16, 32, 32, "pairs a step and process", "our choice: not stated"),
    ("retrieve_rate", "retrieve", 5e-4, 5e-4, 1e-5, "peak learning rate", "released code"),
    ("retrieve_pool", "retrieve", 24, 105, 0, "test studies that are ranked against each other, 0: all", "our choice: paper all"),
    ("retrieve_trials", "retrieve", 3, 20, 100, "trials with 100 candidates each", "our choice: a co-author names 100 candidates"),
    # Tasks of X-VL's early version
    ("xvl_retrieve_pool", "xvl_retrieve", 24, 200, 0, "test studies that are ranked against each other, 0: all", "our choice: paper all"),
    ("xvl_retrieve_shortlist", "xvl_retrieve", 10, 50, 100, "candidates that contrast leaves to the matching head", "released code: 10 to 100"),
    ("xvl_vqa_epochs", "xvl_vqa", 1, 5, 30, "passes over the training questions", "released code"),
    ("xvl_vqa_batch", "xvl_vqa", 16, 32, 10, "questions a step and process", "our choice: as in pre-training"),
    ("xvl_vqa_rate", "xvl_vqa", 1e-3, 1e-3, 1e-4, "peak learning rate", "released code"),
    ("xvl_vqa_first", "xvl_vqa", 10, 10, 10, "candidate answers that the first token leaves to the whole answer", "released code"),
    ("xvl_vqa_chest", "xvl_vqa", 0, 0, 0, "1: chest questions alone, in training and test", "released code: an option"),
)
# fmt: on

# Settings that turn preset `paper` (the final code) into X-VL's early version: presets.load("paper", presets.EARLY_XVL)
EARLY_XVL = (
    "vision_width=384 vision_heads=6 itm_heads=2 queue_size=49152 epochs=15 weight_decay=0.02"
)

# What notebook 30 takes off X-VL, one at a time: settings, and what a row of results calls it.
ABLATIONS = {
    "whole": ("", "whole"),
    "no_momentum": ("momentum=0 alpha=0", "no momentum"),
    "no_sentences": ("local_weight=0", "no sentence-wise term"),
    "no_adjustment": ("same_report=2", "no similarity adjustment"),
    "no_fusion": ("fusion=0", "no fusion"),
    "no_start": ("vision_weights=", "no self-supervised start"),
}

_LEAST = {"epochs": 1, "accumulation": 1, "log_every": 1,
          "batch_size": 2, "contrast_batch": 2, "checkpoints": 1, "bootstrap": 20, "correct_words": 1, "queue_size": 1, "max_tokens": 4,
          "supervised_epochs": 1, "share": 0.01, "store_size": 8, "resize": 8, "image_size": 8, "patch_size": 2}  # fmt: skip
_MOST = {
    "max_reject_share": 1,
    "explain_threshold": 1,
    "share": 1,
    "errors_share": 1,
    "correct_share": 1,
    "correct_kept": 1,
}
# An ablation's training: setting, and the setting of notebook 30 that stands in for it
_TRAINED = {"epochs": "epochs", "contrast_epochs": "contrast_epochs", "vision_weights": "start"}
# ViewPosition in MIMIC-CXR's metadata; `views` names some of them, separated by commas
_VIEWS = ("AP", "PA", "LATERAL", "LL", "AP AXIAL", "AP LLD", "AP RLD", "PA LLD", "PA RLD", "LAO", "RAO", "LPO", "RPO",
          "SWIMMERS", "XTABLE LATERAL")  # fmt: skip
_MASKS = ("bidirectional", "seq2seq", "bi_seq2seq", "noncross", "bar")
_SHORT = {"bi": "bidirectional", "s2s": "seq2seq", "bi_s2s": "bi_seq2seq"}
_CHOICES = {"device": ("cpu", "cuda", "auto"), "precision": ("fp32", "bf16", "fp16"), "vision_stem": ("patch", "conv"),
            "show": ("open", "all", "none"),
            "medvill_mask": _MASKS, "task_positions": ("own", "released"), "generate_objective": ("masked", "every"),
            "medvill_padding": ("blocked", "pretraining", "finetuning"), "medvill_trunk": ("resnet50", "patch", "conv"),
            "medvill_freeze": ("none", "meant", "released", "aligned"), "medvill_draw": ("sample", "batch"),
            "packed": (0, 1), "fusion": (0, 1), "ablation": ("", *ABLATIONS), "itm_heads": (1, 2), "negatives": ("online", "momentum"),
            "soft_targets": ("vocabulary", "sequence"), "xvl_tune_frozen": (0, 1), "writer_copies": (0, 1),
            "xvl_vqa_chest": (0, 1), "vision_branch": ("teacher", "student")}  # fmt: skip

Preset = make_dataclass(
    "Preset", [("name", str)] + [(row[0], type(row[4])) for row in _TABLE], frozen=True
)
Preset.__doc__ = "The settings of one run; see `table()` for what each means and where the published value comes from."


def load(name: str, overrides: str = "") -> "Preset":
    """Settings of preset `name`, with `overrides` such as ``"seed=1 epochs=3"`` applied.

    Raises ValueError, listing what is valid, for an unknown preset or setting, or a value of the wrong type.
    """
    if name not in NAMES:
        raise ValueError(f"unknown preset {name!r}: expected one of {', '.join(NAMES)}")
    values = {row[0]: row[2 + NAMES.index(name)] for row in _TABLE}
    return changed(Preset(name=name, **values), overrides)


def changed(preset: "Preset", overrides: str) -> "Preset":
    """`preset` with `overrides` applied; raises as `load` does."""
    values = asdict(preset)
    given = parse_overrides(overrides)
    if given.get("ablation") in ABLATIONS:  # they win: what is off is off
        trained = {
            key: str(given.get(f"ablation_{name}", values[f"ablation_{name}"]))
            for key, name in _TRAINED.items()
        }
        given |= trained | parse_overrides(ABLATIONS[given["ablation"]][0])
    for key, text in given.items():
        values[key] = _cast(key, text, type(values[key]))
        least, most = _LEAST.get(key, 0), _MOST.get(key, sys.float_info.max)
        if (
            isinstance(values[key], int | float) and not least <= values[key] <= most
        ):  # "nan" is neither
            raise ValueError(
                f"setting {key}={text}: expected at least {least}"
                + f", at most {most}" * (key in _MOST)
            )
        if key in _CHOICES and values[key] not in _CHOICES[key]:
            raise ValueError(
                f"setting {key}={text!r}: expected one of {', '.join(map(str, _CHOICES[key]))}"
            )
        if key == "views" and not {view.strip() for view in text.split(",")} <= set(_VIEWS):
            raise ValueError(
                f"setting views={text!r}: expected one or more of {', '.join(_VIEWS)}, separated by commas"
            )
    found = Preset(**values)
    masks(found), seeds(found), ablations(found)
    return found


def masks(preset) -> list[str]:
    """The masks of MedViLL to run: those of `masks`, without one `medvill_mask`. ValueError for an unknown one."""
    given = _MASKS if preset.masks == "all" else [_SHORT.get(m, m) for m in _listed(preset.masks)]
    if unknown := [mask for mask in given if mask not in _MASKS]:
        raise ValueError(
            f"setting masks={preset.masks!r}: {unknown[0]!r} is no mask; expected all, or some of {', '.join(_MASKS)}"
        )
    return list(dict.fromkeys(given)) or [preset.medvill_mask]


def ablations(preset) -> list[tuple[str, float]]:
    """(ablation, share) of the trainings to run: those of `ablations` from all studies, the whole model from each of `shares`.

    Without both `ablation` and `share` alone. ValueError for an unknown name, and for what is no whole percentage.
    """
    names = list(ABLATIONS) if preset.ablations == "all" else _listed(preset.ablations)
    if unknown := [name for name in names if name not in ABLATIONS]:
        raise ValueError(
            f"setting ablations={preset.ablations!r}: {unknown[0]!r} is none; expected all, or some of {', '.join(ABLATIONS)}"
        )
    shares = []
    for text in _listed(preset.shares):
        share = round(_cast("shares", text, float), 6)
        if not 0 < share <= 1 or abs(100 * share - round(100 * share)) > 1e-4:
            raise ValueError(
                f"setting shares={preset.shares!r}: expected whole percentages above 0, such as 0.1,0.25,1"
            )
        shares.append(("whole", share))
    return list(dict.fromkeys([(name, 1.0) for name in names] + shares)) or [
        (preset.ablation, preset.share)
    ]


def compared(preset) -> "Preset":
    """`preset` with the trainings that notebook 30 compares: those asked for, else every ablation and four shares, two seeds."""
    asked = bool(preset.ablations or preset.shares)
    wanted = "" if asked else "ablations=all shares=0.1,0.25,0.5 "
    return changed(
        preset, wanted + ("" if preset.seeds else f"seeds={preset.seed},{preset.seed + 1}")
    )


def ablation_label(preset) -> str:
    """What rows of results call an ablation or a share of the data: "no fusion", "whole, 25 % of the data"; else ""."""
    share = f"{100 * preset.share:g} % of the data" if preset.share < 1 else ""
    return ", ".join(
        filter(None, [ABLATIONS[preset.ablation][1] if preset.ablation else "", share])
    )


def seeds(preset) -> list[int]:
    """The seeds to run: those of `seeds`, without one `seed`. ValueError for what is no whole number."""
    given = _listed(preset.seeds)
    if not all(text.isdecimal() for text in given):
        raise ValueError(
            f"setting seeds={preset.seeds!r}: expected whole numbers separated by commas, such as 0,1,2"
        )
    return list(dict.fromkeys(int(text) for text in given)) or [preset.seed]


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def parse_overrides(overrides: str) -> dict[str, str]:
    """``"seed=1 epochs=3"`` -> ``{"seed": "1", "epochs": "3"}``; raises ValueError for an unknown name."""
    known = [row[0] for row in _TABLE]
    pairs = {}
    for item in shlex.split(overrides):
        key, equals, text = item.partition("=")
        if not equals:
            raise ValueError(f"setting {item!r}: expected name=value, for example seed=1")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"unknown setting {key!r}{hint}: expected one of {', '.join(known)}")
        pairs[key] = text
    return pairs


def _cast(key: str, text: str, kind: type):
    try:
        return kind(text)
    except ValueError:
        expected = {int: "a whole number", float: "a number"}[kind]
        raise ValueError(f"setting {key}={text!r}: expected {expected}") from None


def group(preset, *groups: str) -> dict:
    """The settings of `preset` that belong to `groups`, as a plain dictionary."""
    values = asdict(preset)
    return {row[0]: values[row[0]] for row in _TABLE if row[1] in groups}


def table(preset=None) -> list[dict]:
    """One row a setting: the three presets side by side, meaning and source; with `preset`, also the value in use."""
    rows = []
    for name, part, smoke, demo, paper, meaning, source in _TABLE:
        row = {"setting": name, "group": part, "smoke": smoke, "demo": demo, "paper": paper}
        if preset is not None:
            row["in use"] = getattr(preset, name)
        rows.append(row | {"meaning": meaning, "source": source})
    return rows


assert [f.name for f in fields(Preset)][1:] == [row[0] for row in _TABLE]
