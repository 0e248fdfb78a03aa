"""Read a stream that never ends: a causal model whose state has one size, however much it has seen."""

import torch
from transformers import DynamicCache, set_seed

from modeling_dlr import DLRConfig, DLRForAudioFrameClassification, detach_cache

set_seed(0)
# One value per step in, one of two labels per step out. A causal model never looks ahead.
config = DLRConfig(
    input_size=1, hidden_size=16, num_hidden_layers=2, state_size=64, id2label={0: "quiet", 1: "just passed 1"}
)
model = DLRForAudioFrameClassification(config)


def sensor(count: int) -> torch.Tensor:
    """Values of a sensor, [1, count], that now and then pass 1."""
    return torch.randn(1, count) * 0.6


def labels(values: torch.Tensor) -> torch.Tensor:
    """1 where one of the last eight values was above 1."""
    passed = torch.nn.functional.pad((values > 1).float(), (7, 0))
    return torch.nn.functional.max_pool1d(passed, 8, stride=1).long()


# Train on the stream itself: each piece begins with the state in which the one before it ended.
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
cache = DynamicCache(config=model.config)
for step in range(300):
    values = sensor(200)
    output = model(input_values=values, labels=labels(values), cache=cache, use_cache=True)
    output.loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    # Gradients end here; without this line they would go back to the begin of the stream.
    cache = detach_cache(output.cache)
    if step % 100 == 99:
        print(f"step {step + 1}: loss {output.loss:.3f}")

# Read 20,000 values in pieces of any length. Nothing but the state is kept between them.
model.eval()
stream, pieces, cache = sensor(20_000), [], DynamicCache(config=model.config)
with torch.inference_mode():
    for piece in stream.split([1, 999, 7, 4993, 14_000], dim=1):
        output = model(input_values=piece, cache=cache, use_cache=True)
        cache = output.cache
        pieces.append(output.logits)
    whole = model(input_values=stream).logits
logits = torch.cat(pieces, dim=1)
accuracy = (logits.argmax(-1) == labels(stream)).float().mean().item()
difference = (logits - whole).abs().max().item()
numbers = sum(part.numel() for layer in cache.layers for part in layer.contents())
print(f"accuracy {accuracy:.4f}, difference from reading all at once {difference:.1e}, {numbers} numbers of state")
