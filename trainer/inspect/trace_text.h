// Runs texts through a trained model and keeps what its routers decide.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "trainer/data/tokenizer/tokenizer.h"
#include "trainer/inspect/routing_trace.h"
#include "trainer/loaded_model.h"

namespace conclave {

struct InspectedText {
  std::string name;
  std::vector<std::int32_t> tokens;         // the first of the file
  std::optional<std::int64_t> file_tokens;  // all of the file; nothing where that isn't known
};

// "kjv=data/kjv.txt", or a path alone, whose file name is then its name. Reads at most `max_tokens` tokens
// (0: all): of text, encoded by `tokenizer` no further than needed, or of a file of token ids, which is any
// for a model without a tokenizer (null), and .bin, .idx and their prefix for one with a data.tokenizer_file.
// Throws Error for a file that can't be read, is empty, or has ids outside the vocabulary.
InspectedText read_inspected_text(const std::string& argument, const config::Experiment& experiment,
                                  const data::Tokenizer* tokenizer, std::int64_t max_tokens);

struct TracedTexts {
  RoutingTrace trace;
  double loss_sum = 0;  // nats; each token but a text's first is predicted
  std::int64_t targets = 0;
};

// Collective over the model's grid; the same on every rank, each of which sees every token. A text is cut
// into windows of model.max_seq tokens, each of which is a forward of its own without dropping: what comes
// before its window a token doesn't see. Throws Error for a model without MoE layers.
TracedTexts trace_texts(const LoadedModel& loaded, const std::vector<InspectedText>& texts);

}  // namespace conclave
