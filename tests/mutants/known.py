"""Wrong changes that a person could make, one or a few lines each, and that a test has to notice.

In: nothing. Out: `KNOWN`, replacements of a text that occurs once in its file. Run: python -m tests.mutants --known.
The first ones were survivors of an independent mutation test; the others are mistakes that the field knows.
"""

from typing import NamedTuple

CORE = "scsuite/core"
STEP, LOADER, SETUP = (f"{CORE}/training/{name}.py" for name in ("step", "loader", "setup"))
LOOP, TRAINER, STATE = (f"{CORE}/training/{name}.py" for name in ("loop", "trainer", "state"))
RESUME, OPTIMIZER, COMMIT = (f"{CORE}/training/{name}.py" for name in ("resume", "optimizer", "checkpoint_schedule"))
SPLIT, FOLDER, CACHE = (f"{CORE}/dataset/{name}.py" for name in ("split", "folder", "cache"))
METRICS, EVALUATE = (f"{CORE}/evaluation/{name}.py" for name in ("metrics", "evaluate"))
RUN_DIR, CHECKPOINTS = (f"{CORE}/runs/{name}.py" for name in ("rundir", "checkpoints"))
CHECKPOINT, CHECKPOINT_FILE = (f"{CORE}/model/{name}.py" for name in ("checkpoint", "checkpoint_file"))
EMA, NETWORK, INITIALIZATION = (f"{CORE}/model/{name}.py" for name in ("ema", "network", "initialization"))
RULES, SWEEP, RANGE_TEST = (f"{CORE}/lr_range/{name}.py" for name in ("rules", "sweep", "range_test"))
TRANSFORMS, DEFAULT, POLICY = (f"{CORE}/augment/{name}.py" for name in ("transforms", "default", "policy"))
MAPS, SCHEDULE, RUN_SWEEP = f"{CORE}/cam/maps.py", f"{CORE}/schedule.py", f"{CORE}/lr_range/run_sweep.py"


class Known(NamedTuple):
    """What is wrong, and the change: `old` becomes `new`."""

    name: str
    path: str
    old: str
    new: str


KNOWN = [
    # --- survivors of an independent mutation test ---
    Known(
        "mean and std of the first 1,000 images only",
        SPLIT, "range(0, len(self), 1000):  # in", "range(0, min(len(self), 1000), 1000):  # in",
    ),
    Known(
        "a file with a state loads the raw weights instead of the average",
        CHECKPOINT, "    return EMA_PREFIX if any(", '    return EMA_PREFIX if "state" not in checkpoint.metadata and any(',
    ),
    Known("a folder's key without sizes", FOLDER, '*file.version, ""', '*file.version[1:], ""'),
    Known(
        "duplicate rows kept on resume",
        RUN_DIR, "rows.setdefault(int(row[0]), row)", "rows[(int(row[0]), len(rows))] = row",
    ),
    Known("L1 without the weights of batch norm", STEP, "for p in model.parameters()]).sum()", "for p in model.parameters() if p.ndim > 1]).sum()"),
    Known(
        "no commit after epoch 1",
        COMMIT, "        if self.last_save_seconds <= MAX", "        if self.trainer.num_epochs_done > 1 and self.last_save_seconds <= MAX",
    ),
    Known(
        "mean and std include held-out images at small widths",
        SETUP, "policy = make_policy(config, train)", "policy = make_policy(config, data.train if config.width < 0.2 else train)",
    ),
    # --- their neighbours ---
    Known("mean and std of every second image", SPLIT, "self.images_NHWC[start : start + 1000]", "self.images_NHWC[start : start + 1000 : 2]"),
    Known("mean and std without the last block", SPLIT, "range(0, len(self), 1000):  # in", "range(0, max(len(self) - 999, 1), 1000):  # in"),
    Known("std of a channel around another's mean", SPLIT, "(values - m) ** 2", "(values - means[0]) ** 2"),
    Known("mean and std of the test images", SETUP, "policy = make_policy(config, train)", "policy = make_policy(config, data.test)"),
    Known("mean and std include held-out images", SETUP, "policy = make_policy(config, train)", "policy = make_policy(config, data.train)"),
    Known("whitening filters see held-out images", SETUP, "whitening_images(train, mean, std)", "whitening_images(data.train, mean, std)"),
    Known("whitening filters of the first images", SETUP, "split.images_NHWC[:: -(-len(split) // NUM_WHITENING_IMAGES)]", "split.images_NHWC[:NUM_WHITENING_IMAGES]"),
    Known("a folder's key without times", FOLDER, '*file.version, ""', 'file.version[0], ""'),
    Known("a folder's key without names", FOLDER, "(file.name, file.identity[1]", "(file.identity[1]"),
    Known("a folder's key without inodes", FOLDER, "(file.name, file.identity[1], ", "(file.name, "),
    Known("a folder's key without empty folders", FOLDER, "(*sorted(walk.folders), ", "("),
    Known("the fingerprint without labels", CACHE, 'f"{name}.labels": split.labels_N}', 'f"{name}.labels": split.labels_N[:0]}'),
    Known("the fingerprint without class names", CACHE, "json.dumps(dataset.class_names).encode()", 'b""'),
    Known("the cache's key without --fit", f"{CORE}/dataset/__init__.py", 'f"{listing.content_hash} {fit}{suffix}"', 'f"{listing.content_hash} {suffix}"'),
    Known("rows after the checkpoint kept on resume", RUN_DIR, "first <= int(row[0]) < first + count", "first <= int(row[0])"),
    Known("one row after the checkpoint kept on resume", RUN_DIR, "first <= int(row[0]) < first + count", "first <= int(row[0]) <= first + count"),
    Known("rows not sorted on resume", RUN_DIR, "for number in sorted(rows)]", "for number in rows]"),
    Known("L1 of squares", STEP, "[p.abs().sum() for p", "[p.square().sum() for p"),
    Known("L1 of the gradients' signs only", STEP, "scaler.scale(loss + penalty)", "scaler.scale(loss + float(penalty))"),
    Known("no commit after the first", COMMIT, "        if self.last_save_seconds <= MAX", "        if self.last_saved is None and self.last_save_seconds <= MAX"),
    Known("no commit at the end", LOOP, "    if schedule is not None:\n        schedule.save()", "    if schedule is not None:\n        pass"),
    # --- data and augmentation ---
    Known("the same order in each epoch", LOADER, '"shuffle", self.epoch', '"shuffle", 0'),
    Known("no shuffling", LOADER, ".permutation(self.num_images)", ".permutation(self.num_images) * 0 + np.arange(self.num_images)"),
    Known("the last batch dropped", LOADER, "self.num_images, self.batch_size):", "self.num_images - self.batch_size + 1, self.batch_size):"),
    Known("the same flips in each epoch", LOADER, ".bernoulli(0.5) ^ (epoch % 2 == 1)", ".bernoulli(0.5)"),
    Known("all images flipped in the same epochs", LOADER, ".bernoulli(0.5) ^ (epoch", ".bernoulli(1.0) ^ (epoch"),
    Known("flips upside down", LOADER, "images_NHWC.flip(2)", "images_NHWC.flip(1)"),
    Known("flips upside down in workers", LOADER, "image[:, ::-1]", "image[::-1]"),
    Known("the same crops in each epoch", LOADER, "seed=self.batches.seed, epoch=epoch)", "seed=self.batches.seed, epoch=0)"),
    Known("the same crops for all seeds", LOADER, "seed=self.batches.seed, epoch=epoch)", "seed=0, epoch=epoch)"),
    Known("a batch's images have one crop", LOADER, "self.policy(images_NHWC, drawn_by,", "self.policy(images_NHWC, drawn_by * 0,"),
    Known("labels of other images", LOADER, "self.labels_N.index_select(0, device_indices_N)", "self.labels_N[: len(device_indices_N)]"),
    Known("cutout at one place", TRANSFORMS, "starts_NK = rng.integers(0, size - lengths_NK, max_holes)", "starts_NK = rng.integers(0, size - lengths_NK, max_holes) * 0"),
    Known("cutout never at the last pixel", TRANSFORMS, "starts_NK = rng.integers(0, size - lengths_NK, max_holes)", "starts_NK = rng.integers(0, size - lengths_NK - 1, max_holes)"),
    Known("cutout partly outside", TRANSFORMS, "starts_NK = rng.integers(0, size - lengths_NK, max_holes)", "starts_NK = rng.integers(0, size - 1 + 0 * lengths_NK, max_holes)"),
    Known("cutout filled with black", DEFAULT, "tuple(round(255 * value) for value in self.mean)", "(0, 0, 0)"),
    Known("cutout before the flip is everywhere else", TRANSFORMS, "[x_min, y_min, x_max, y_max], axis=2", "[y_min, x_min, y_max, x_max], axis=2"),
    Known("crops never at the last pixel", TRANSFORMS, "rng.integers(0, max_y), rng.integers(0, max_x)", "rng.integers(0, max_y - 1), rng.integers(0, max_x)"),
    Known("normalised by the variance", POLICY, "- _channels(mean)) / _channels(std)", "- _channels(mean)) / _channels(std) ** 2"),
    Known("normalised without mean", POLICY, "(images_NCHW / 255 - _channels(mean))", "(images_NCHW / 255 - 0 * _channels(mean))"),
    Known("limits that are not balanced", SPLIT, 'np.sort(balanced_indices(split.labels_N, limit, "limit"))', "range(limit)"),
    Known("held-out images that are not balanced", SPLIT, 'np.sort(balanced_indices(split.labels_N, num_images, "val"))', "np.arange(num_images)"),
    Known("held-out images are trained on", SPLIT, "return split.select(rest), split.select(holdout)", "return split, split.select(holdout)"),
    # --- step and schedule ---
    Known("gradients add up over the steps", STEP, "    optimizer.zero_grad(set_to_none=True)\n", ""),
    Known("a network in eval mode is trained in it", STEP, "    model.train()\n", ""),
    Known("the reported loss has label smoothing", STEP, "loss = loss.detach() if is_plain else _batch_loss(logits_NK, labels_N, 0.0, world, num_images)", "loss = loss.detach()"),
    Known("the trained loss has no label smoothing", STEP, "_batch_loss(logits_NK, labels_N, label_smoothing, world, num_images)\n    else", "_batch_loss(logits_NK, labels_N, 0.0, world, num_images)\n    else"),
    Known("the test loss has label smoothing", METRICS, 'nll_loss(log_probabilities_NK, labels_N, reduction="none")', 'cross_entropy(logits_NK, labels_N, reduction="none", label_smoothing=0.1)'),
    Known("class weights not in the divisor", STEP, "class_weights_K[labels_N].sum())", "torch.ones_like(class_weights_K)[labels_N].sum())"),
    Known("an update with NaN is done", STEP, "if device.is_cuda or is_recorded or not non_finite:", "if True:"),
    Known("a loss that is NaN is not seen later", STEP, "torch.stack([non_finite, (~norm.isfinite()).float(), previous])", "torch.stack([non_finite, (~norm.isfinite()).float()])"),
    Known("the same dropout mask in each step", STEP, '"dropout", step * world.size + world.rank', '"dropout", world.rank'),
    Known("the learning rate of the step before", LOOP, "    lr = trainer.cycle.lr_at(step)\n    if", "    lr = trainer.cycle.lr_at(max(step - 1, 0))\n    if"),
    Known("the momentum of the step before", LOOP, "batch, step, lr, trainer.cycle.momentum_at(step))", "batch, step, lr, trainer.cycle.momentum_at(max(step - 1, 0)))"),
    Known("momentum cycles with the learning rate", SCHEDULE, "self._value_at(step, self.momentum_max, self.momentum_min)", "self._value_at(step, self.momentum_min, self.momentum_max)"),
    Known("momentum is not set", OPTIMIZER, "        group[\"lr\"] = lr\n    set_momentum(optimizer, momentum)", "        group[\"lr\"] = lr"),
    Known("the peak one epoch late", SCHEDULE, "last_step = round(peak_epoch * steps_per_epoch) - 1", "last_step = round((peak_epoch + 1) * steps_per_epoch) - 1"),
    Known("the peak one step late", SCHEDULE, "last_step = round(peak_epoch * steps_per_epoch) - 1", "last_step = round(peak_epoch * steps_per_epoch)"),
    Known("annihilation: the last step below LRMIN", SCHEDULE, "progress = (num_steps - 1 - step) / (num_steps - 1 - peak_step)", "progress = (num_steps - 2 - step) / (num_steps - 1 - peak_step)"),
    Known("weight decay on batch norm", OPTIMIZER, ', "weight_decay": 0.0}', "}"),
    Known("no weight decay on filters", OPTIMIZER, "[p for p in parameters if p.ndim > 1 and id(p) not in in_norms]}", '[p for p in parameters if p.ndim > 1 and id(p) not in in_norms], "weight_decay": 0.0}'),
    Known("plain momentum, not Nesterov", OPTIMIZER, "nesterov=True", "nesterov=False"),
    Known("centralized gradients of the last layer too", OPTIMIZER, "if gradient.ndim == 4:", "if gradient.ndim >= 2:"),
    Known("gradients centralized over the batch of filters", OPTIMIZER, "dim=(1, 2, 3), keepdim=True", "dim=(0, 2, 3), keepdim=True"),
    # --- averages and the network ---
    Known("the average one step late", EMA, "min(self.time_constant_steps, step + 1)", "min(self.time_constant_steps, step + 2)"),
    Known("the average keeps the initial weights", EMA, "1 / min(self.time_constant_steps, step + 1)", "1 / self.time_constant_steps"),
    Known("the plain mean of all steps", EMA, "1 / min(self.time_constant_steps, step + 1)", "1 / (step + 1)"),
    Known("running statistics are not averaged", EMA, "(self._averaged if place[1].endswith(RUNNING_STATISTICS) else self._copied)", "self._copied"),
    Known("the average over an epoch too many", TRAINER, "config.resolved_ema_epochs * self.cycle.steps_per_epoch", "(config.resolved_ema_epochs + 1) * self.cycle.steps_per_epoch"),
    Known("model.safetensors has the raw weights", TRAINER, "with_prefix(MODEL_PREFIX, self.model) if", "with_prefix(MODEL_PREFIX, self.raw_model) if"),
    Known("the raw weights are evaluated", TRAINER, "self.setup.evaluate(model or self.model,", "self.setup.evaluate(model or self.raw_model,"),
    Known("dropout without its scale", NETWORK, "features * mask / (1 - self.p)", "features * mask"),
    Known("dropout in evaluations", NETWORK, "if not self.training or self.p == 0:", "if self.p == 0:"),
    Known("ghost batch norm in evaluations", NETWORK, "if self.training and self.ghost_batch_size else 1", "if self.ghost_batch_size else 1"),
    Known("whitening filters once, without their negatives", INITIALIZATION, "[components_CF, -components_CF]", "[components_CF, components_CF]"),
    # --- evaluation and metrics ---
    Known("evaluation in training mode", EVALUATE, "with evaluation_mode(model), torch.inference_mode():", "with torch.inference_mode():"),
    Known("the last images are not evaluated", EVALUATE, "range(0, len(split), EVAL_BATCH_SIZE * world.size)", "range(0, max(len(split) - EVAL_BATCH_SIZE + 1, 1), EVAL_BATCH_SIZE * world.size)"),
    Known("test-time flips upside down", EVALUATE, "[view.flip(3) for view in views]", "[view.flip(2) for view in views]"),
    Known("the image counts twice in test-time flips", EVALUATE, "    return views + [view", "    return views + views[:1] + [view"),
    Known("the shifted images are not flipped", EVALUATE, "[view.flip(3) for view in views]", "[view.flip(3) for view in views[:1]]"),
    Known("the confusion matrix transposed", METRICS, "labels * num_classes + predicted,", "predicted * num_classes + labels,"),
    Known("precision and recall exchanged", METRICS, "float(p), float(r), wilson", "float(r), float(p), wilson"),
    Known("top 5 of the least probable classes", METRICS, "np.argsort(-self.probabilities_NK, axis=1", "np.argsort(self.probabilities_NK, axis=1"),
    Known("top 4", METRICS, "[:, :TOP_K]", "[:, : TOP_K - 1]"),
    Known("calibration without the counts of the bins", METRICS, "(count_B * np.abs(accuracy_B - confidence_B)).sum() / len(confidence_N)", "np.abs(accuracy_B - confidence_B).mean()"),
    Known("means over classes without images too", METRICS, "for row in self.per_class() if row.support]", "for row in self.per_class()]"),
    Known("the best epoch is the last of equals", LOOP, "evaluation.accuracy > state.best.accuracy", "evaluation.accuracy >= state.best.accuracy"),
    Known("the best epoch is selected on the test images", LOOP, "evaluation = on_test if on_val is None else on_val", "evaluation = on_val if on_test is None else on_test"),
    Known("the training loss is a mean of means", STATE, "self.loss + step.loss * step.num_images", "self.loss + step.loss * 16"),
    Known("sums go on over the epochs", LOOP, "    state.totals = EpochTotals()\n", ""),
    # --- range test ---
    Known("the reference LR grows with the batch size", RULES, "math.sqrt(size * short)", "size * short"),
    Known("the reference LR ignores the width", RULES, "config.batch_size / REFERENCE_BATCH_SIZE / config.width", "config.batch_size / REFERENCE_BATCH_SIZE"),
    Known("arithmetic means over the repeats", RULES, "math.exp(sum(math.log(value) for value in values) / len(values))", "sum(values) / len(values)"),
    Known("the upper bound is where the loss diverged", RULES, "return last_lr / 2, ", "return last_lr, "),
    Known("LRMIN may exceed a third of LRMAX", RULES, "return min(lr_min, lr_max / 3), lr_max", "return lr_min, lr_max"),
    Known("the average of the loss starts at 0", SWEEP, "return self.biased / (1 - self.decay**self.num_values)", "return self.biased"),
    Known("a fall after the first turn counts", SWEEP, "            return lowest, step\n", "            continue\n"),
    Known("all repeats have one seed", RANGE_TEST, "replace(config, seed=config.seed + repeat)", "replace(config, seed=config.seed)"),
    Known("repeats go on with one network", RANGE_TEST, "world, copy.deepcopy(model))", "world, model)"),
    Known("the sweep has the momentum of the start", RUN_SWEEP, "MOMENTUM_MIN if config.cycle_momentum else MOMENTUM  #", "MOMENTUM  #"),
    # --- Grad-CAM ---
    Known("Grad-CAM without ReLU", MAPS, "_METHODS[method](*pair).relu()", "_METHODS[method](*pair)"),
    Known("Grad-CAM of the predicted class", MAPS, "logits_NK.gather(1, classes_N[:, None].to(logits_NK.device))", "logits_NK.amax(1)"),
    Known("Grad-CAM of the class of the first image", MAPS, "logits_NK.gather(1, classes_N[:, None].to(logits_NK.device))", "logits_NK[:, int(classes_N[0])]"),
    Known("Grad-CAM of the probability", MAPS, "logits_NK.gather(1,", "logits_NK.softmax(1).gather(1,"),
    Known("Grad-CAM in training mode", MAPS, "    with evaluation_mode(model):\n        for batch", "    if True:\n        for batch"),
    Known("maps enlarged without interpolation", MAPS, 'mode="bilinear", align_corners=False)', 'mode="nearest")'),
    Known("maps enlarged with aligned corners", MAPS, "align_corners=False", "align_corners=True"),
    Known("rows and columns of a map exchanged", MAPS, "full_HW[top:bottom, left:right] = _upsample(map_HW[None]", "full_HW[top:bottom, left:right] = _upsample(map_HW.T[None]"),
    # --- checkpoints, resume and run directories ---
    Known("the checkpoint of a step has the number of the one before", COMMIT, "save_checkpoint(trainer.state.step, ", "save_checkpoint(trainer.state.step - 1, "),
    Known("only one checkpoint is kept", CHECKPOINTS, "NUM_CHECKPOINTS_KEPT = 2", "NUM_CHECKPOINTS_KEPT = 1"),
    Known("the oldest checkpoints are kept", CHECKPOINTS, "list_checkpoints(run)[NUM_CHECKPOINTS_KEPT:]", "list_checkpoints(run)[:-NUM_CHECKPOINTS_KEPT]"),
    Known("the oldest checkpoint is resumed", CHECKPOINTS, "    for path in list_checkpoints(run):\n        try", "    for path in reversed(list_checkpoints(run)):\n        try"),
    Known("checkpoints ordered by name as text", CHECKPOINTS, "sorted({int(name[1]) for name in names if name}, reverse=True)", "map(int, sorted({name[1] for name in names if name}, reverse=True))"),
    Known("a checkpoint's digest is not compared", CHECKPOINT_FILE, "if sha256.hexdigest().encode() != header[start : start + 64]:", "if False:"),
    Known("a resume starts with new averages", RESUME, "        load_weights(checkpoint, trainer.ema.model, EMA_PREFIX)", "        pass"),
    Known("a resume starts with no momentum", RESUME, "    _load_optimizer_state(trainer, checkpoint)\n", ""),
    Known("a resume on other data", RESUME, "    if saved_fingerprint != fingerprint:", "    if False:"),
    Known("a resume under other settings", RESUME, "_check_equal(checkpoint.path, name, saved_config[name], current[\"config\"][name])", "pass"),
    Known("a resume repeats the last step", RESUME, "    trainer.state = state\n", "    trainer.state = state\n    state.step -= 1\n"),
    Known("a resume without the scaler's state", RESUME, "        setup.scaler.load_state_dict(scaler)", "        pass"),
    Known("the second step's momentum instead of the variance", RESUME, 'matched_layout[f"{OPTIMIZER_PREFIX}{key}.{name}"] for key in keys}', 'matched_layout[f"{OPTIMIZER_PREFIX}{keys[-1]}.{name}"] for key in keys}'),
    Known("the lock is not released", RUN_DIR, "        self._lock.release()", "        pass"),
    Known("the lock is not taken", RUN_DIR, "            self._lock.acquire(blocking=False)", "            pass"),
    Known("a deleted run keeps its lock", RUN_DIR, "        self.close()\n        shutil", "        shutil"),
    Known("rows are not on disk before their checkpoint", RUN_DIR, "                    flush_file(path)", "                    pass"),
    Known("each row has a header", RUN_DIR, "[row] if path.exists() else [header, row]", "[header, row]"),
    Known("a failed run's result counts as complete", RUN_DIR, 'return result if result and result.get("status", "ok") == "ok" else None', "return result or None"),
    Known("checkpoints are never removed", RUN_DIR, "        prune_checkpoints(self.path)\n", ""),
]  # fmt: skip
