#include "trainer/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "comm/base/error.h"
#include "layers/tensor/philox.h"

namespace conclave {

std::int32_t sample_token(std::span<const float> logits, const SamplingOptions& options,
                          std::uint64_t index) {
  std::vector<std::int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto logit = [&](std::int32_t id) { return logits[static_cast<std::size_t>(id)]; };
  std::ranges::stable_sort(ids, [&](std::int32_t a, std::int32_t b) { return logit(a) > logit(b); });
  if (options.temperature <= 0.0) return ids.front();

  std::size_t kept = ids.size();
  if (options.top_k > 0) kept = std::min(kept, static_cast<std::size_t>(options.top_k));
  std::vector<double> probabilities(kept);
  double sum = 0;
  for (std::size_t i = 0; i < kept; ++i) {
    probabilities[i] = std::exp((logit(ids[i]) - logit(ids[0])) / options.temperature);
    sum += probabilities[i];
  }
  if (options.top_p < 1.0) {
    double nucleus = 0;
    std::size_t size = 0;
    do {  // at least one
      nucleus += probabilities[size++];
    } while (size < kept && nucleus < options.top_p * sum);
    kept = size;
    sum = nucleus;
  }
  double remaining = static_cast<double>(RandomStream(options.seed, "generate").uniform(index)) * sum;
  for (std::size_t i = 0; i + 1 < kept; ++i) {
    remaining -= probabilities[i];
    if (remaining < 0) return ids[i];
  }
  return ids[kept - 1];
}

void generate(const GenerationArgs& args, const std::function<void(std::int32_t)>& emit) {
  CONCLAVE_CHECK(!args.prompt.empty(), "generation starts from a prompt of at least one token, found none");
  const Device memory = args.gpu != nullptr ? args.gpu->device() : Device();
  Arena arena(memory);
  std::vector<KvCache> caches = args.model.make_caches(args.max_seq, memory);
  std::vector<std::int32_t> history(args.prompt.begin(), args.prompt.end());
  // What the caches do not hold yet.
  std::vector<std::int32_t> pending = history;
  std::vector<float> scores_on_host;

  for (std::int64_t drawn = 0; drawn < args.count; ++drawn) {
    if (caches.front().length() + static_cast<std::int64_t>(pending.size()) > args.max_seq) {
      for (KvCache& cache : caches) cache.clear();
      const auto window = static_cast<std::ptrdiff_t>(std::max<std::int64_t>(1, args.max_seq / 2));
      pending.assign(history.end() - window, history.end());
    }
    Context ctx{.gpu = args.gpu, .arena = &arena, .grid = &args.grid, .training = false};
    const auto positions = static_cast<std::int64_t>(pending.size());
    const TensorView logits = args.model.next_token_logits(
        ctx, tensor_view(std::span<const std::int32_t>(pending), {positions}), caches);
    std::span<const float> scores = logits.values<float>();
    if (args.gpu != nullptr) {  // the token is drawn on the host
      scores_on_host.resize(scores.size());
      args.gpu->staging().download(scores_on_host.data(), scores.data(), scores.size_bytes());
      scores = scores_on_host;
    }
    const std::int32_t token =
        sample_token(scores, args.sampling, static_cast<std::uint64_t>(history.size()));
    arena.reset();

    emit(token);
    history.push_back(token);
    pending.assign(1, token);
  }
}

}  // namespace conclave
