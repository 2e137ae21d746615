#include "trainer/data/tokenizer/byte_pair_merges.h"

#include <algorithm>
#include <bit>
#include <queue>
#include <tuple>

namespace conclave::data {
namespace {

std::uint64_t pair_of(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

// A symbol of the word and its neighbours; one that was merged into the symbol before it is gone.
struct Symbol {
  std::int32_t id = 0;
  std::int32_t previous = 0;  // -1: none
  std::int32_t next = 0;      // -1: none
  bool gone = false;
};

// What may be merged: stale where the symbols have changed since.
struct Candidate {
  std::int32_t rank = 0;
  std::int32_t position = 0;  // of the left symbol
  std::int32_t merged = 0;
  std::uint64_t pair = 0;

  friend bool operator>(const Candidate& a, const Candidate& b) {
    return std::tie(a.rank, a.position) > std::tie(b.rank, b.position);
  }
};

}  // namespace

BytePairMerges::BytePairMerges(const std::vector<Merge>& merges)
    : slots_(std::bit_ceil(2 * merges.size() + 2)) {
  std::int32_t rank = 0;
  for (const Merge& merge : merges) {
    const std::uint64_t pair = pair_of(merge.left, merge.right);
    std::size_t slot = first_slot(pair);
    while (slots_[slot].pair != kEmpty && slots_[slot].pair != pair) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = {pair, rank++, merge.merged};
  }
}

// Multiplicative hashing (Knuth, volume 3, section 6.4) by 2^64 over the golden ratio.
std::size_t BytePairMerges::first_slot(std::uint64_t pair) const {
  return static_cast<std::size_t>((pair * 0x9E3779B97F4A7C15ULL) >> 32) & (slots_.size() - 1);
}

const BytePairMerges::Slot* BytePairMerges::find(std::int32_t left, std::int32_t right) const {
  const std::uint64_t pair = pair_of(left, right);
  for (std::size_t slot = first_slot(pair);; slot = (slot + 1) & (slots_.size() - 1)) {
    if (slots_[slot].pair == pair) return &slots_[slot];
    if (slots_[slot].pair == kEmpty) return nullptr;
  }
}

void BytePairMerges::apply(std::vector<std::int32_t>& ids) const {
  if (ids.size() < 2) return;
  const auto count = static_cast<std::int32_t>(ids.size());
  std::vector<Symbol> word(ids.size());
  for (std::int32_t i = 0; i < count; ++i) {
    word[static_cast<std::size_t>(i)] = {ids[static_cast<std::size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1};
  }
  const auto at = [&](std::int32_t position) -> Symbol& { return word[static_cast<std::size_t>(position)]; };

  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  const auto offer = [&](std::int32_t position) {
    if (position < 0 || at(position).next < 0) return;
    const std::int32_t right = at(at(position).next).id;
    if (const Slot* merge = find(at(position).id, right))
      candidates.push({merge->rank, position, merge->merged, merge->pair});
  };
  for (std::int32_t i = 0; i + 1 < count; ++i) offer(i);

  while (!candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    Symbol& left = at(best.position);
    if (left.gone || left.next < 0 || pair_of(left.id, at(left.next).id) != best.pair) continue;
    Symbol& right = at(left.next);
    left.id = best.merged;
    right.gone = true;
    left.next = right.next;
    if (left.next >= 0) at(left.next).previous = best.position;
    offer(left.previous);
    offer(best.position);
  }

  ids.clear();
  for (std::int32_t i = 0; i >= 0; i = at(i).next) ids.push_back(at(i).id);
}

}  // namespace conclave::data
