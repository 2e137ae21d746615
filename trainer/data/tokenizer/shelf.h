// Things that one thread uses at a time and that are dear to make: a thread takes one and puts it back.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace conclave::data {

template <class Thing>
class Shelf {
 public:
  explicit Shelf(std::function<std::unique_ptr<Thing>()> make) : make_(std::move(make)) {}

  // One thing, for as long as this lives.
  class Loan {
   public:
    Loan(Shelf& shelf, std::unique_ptr<Thing> thing) : shelf_(shelf), thing_(std::move(thing)) {}
    ~Loan() { shelf_.put_back(std::move(thing_)); }
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;
    Thing& operator*() const { return *thing_; }
    Thing* operator->() const { return thing_.get(); }

   private:
    Shelf& shelf_;
    std::unique_ptr<Thing> thing_;
  };

  Loan take() {
    {
      const std::lock_guard lock(mutex_);
      if (!idle_.empty()) {
        std::unique_ptr<Thing> thing = std::move(idle_.back());
        idle_.pop_back();
        return {*this, std::move(thing)};
      }
    }
    return {*this, make_()};
  }

 private:
  void put_back(std::unique_ptr<Thing> thing) {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(thing));
  }

  std::function<std::unique_ptr<Thing>()> make_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Thing>> idle_;
};

}  // namespace conclave::data
