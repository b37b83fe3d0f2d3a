"""The complete flow in Python: range test, training, stop, resume, save, load, evaluation, Grad-CAM, figures."""

import torch

import scsuite

data = scsuite.load_dataset("shapes", limit_train=200, limit_test=100)
test = scsuite.range_test(data, scsuite.LrRangeConfig(width=0.05, batch_size=50, steps=20, workers=0, device="cpu"))
config = scsuite.TrainConfig(
    width=0.05, batch_size=50, epochs=3, lr_min=test.lr_min, lr_max=test.lr_max, ema_epochs=1, workers=0, device="cpu",
    precision="fp32",
)  # fmt: skip
stopped = scsuite.Trainer(data, config)
stopped.fit("runs", should_stop=lambda: stopped.state.step == 6)  # in the middle of the second of three epochs
stopped.save("state.safetensors")
trainer = scsuite.Trainer(data, config).resume("state.safetensors")
trainer.fit()
trainer.save("model.safetensors", weights_only=True)
model, metadata = scsuite.load_checkpoint("model.safetensors")
mean, std, class_names = metadata["mean"], metadata["std"], tuple(metadata["class_names"])
evaluation = scsuite.evaluate(model, data.test, mean=mean, std=std, class_names=class_names)
images = data.test.images_NHWC[:4]
inputs = ((torch.from_numpy(images) / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)
heatmaps = scsuite.grad_cam(model, inputs, evaluation.predicted_N[:4].tolist())
maps = {"predicted": heatmaps.numpy()}
cams = scsuite.figures.CamFigureData(images=images, maps=maps, captions=[{}] * 4, title="Grad-CAM")
figures = [test.plot(), trainer.plot(), scsuite.figures.confusion(evaluation), scsuite.figures.gradcam(cams)]
